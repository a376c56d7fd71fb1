"""A small world in which the right answer is known, so that claims about alignment can be checked.

| module | what it holds |
|---|---|
| `vocabulary` | the words that fill slots, by class |
| `grammar` | how requests are worded, and the fragments that answers are put together from |
| `tasks` | a request with its slots: drawn at random, or read back from its text |
| `language` | words, sentences, and which word may follow which |
| `reward` | the true reward of any text as a response to a request |
| `demonstrations` | answers of mixed quality, as people write them |
| `annotators` | simulated preferences with Bradley-Terry noise and planted flaws |
| `corpus` | general text of the world for the base model |
| `tokenizer`, `build` | the files of a world, with a tokenizer and an untrained model |
"""
