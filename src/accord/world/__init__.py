"""A small world in which the right answer is known, so that alignment methods can be verified.

| module | content |
|---|---|
| `vocabulary` | the words that fill slots, by class |
| `grammar` | the wordings of requests, and the fragments of answers |
| `tasks` | a request with its slots: drawn at random, or read back from its text |
| `language` | words, sentences, and the pairs of words that may follow each other |
| `reward` | the true reward of any text as a response to a request |
| `demonstrations` | answers of mixed quality, as people write them |
| `annotators` | simulated preferences with Bradley-Terry noise and planted flaws |
| `corpus` | general text of the world for the base model |
| `tokenizer`, `build` | the files of a world, with a tokenizer and an untrained model |
"""
