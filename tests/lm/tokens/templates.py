"""Chat templates with the structure of published ones: what they write around turns, and where.

`TEMPLATES` maps a name to a `Template`. Each is written from the model's documented format, without
tools and dates. `tests/lm/tokens/tokenizers.py` has tokenizers for them.
"""

from __future__ import annotations

from dataclasses import dataclass

SYSTEM_FIRST = (
    "{% if messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] %}"
    "{% set messages = messages[1:] %}{% endif %}"
)
ALTERNATE = (
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate user/assistant') }}{% endif %}{% endfor %}"
)


@dataclass(frozen=True)
class Template:
    """A chat template with its control tokens.

    `markers` are special added tokens; `eos` ends an answer, `more_eos` too; `system` and
    `alternates` are whether it accepts system turns, and only alternating ones. A template with
    `ends` writes a token behind the answer that ends it.
    """

    text: str
    bos: str
    eos: str
    markers: tuple[str, ...] = ()
    plain: tuple[str, ...] = ()
    more_eos: tuple[str, ...] = ()
    system: bool = True
    alternates: bool = False
    ends: bool = True


CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n"
    "{{ m['content'] | trim }}<|eot_id|>{% endfor %}{% if add_generation_prompt %}"
    "<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
MISTRAL1 = (
    ALTERNATE + "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}"
    "{{ '[INST] ' + m['content'] + ' [/INST]' }}{% else %}"
    "{{ ' ' + m['content'] + eos_token }}{% endif %}{% endfor %}"
)
MISTRAL3 = (
    SYSTEM_FIRST + ALTERNATE + "{{ bos_token }}{% for m in messages %}"
    "{% if m['role'] == 'user' %}{% if loop.last and system is defined %}"
    "{{ '[INST] ' + system + '\n\n' + m['content'] + '[/INST]' }}{% else %}"
    "{{ '[INST] ' + m['content'] + '[/INST]' }}{% endif %}{% else %}"
    "{{ ' ' + m['content'] | trim + eos_token }}{% endif %}{% endfor %}"
)
TEKKEN = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}"
    "{{ '[INST]' + m['content'] + '[/INST]' }}{% elif m['role'] == 'system' %}"
    "{{ '[SYSTEM_PROMPT]' + m['content'] + '[/SYSTEM_PROMPT]' }}{% else %}"
    "{{ m['content'] + eos_token }}{% endif %}{% endfor %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}" + ALTERNATE + "{% for m in "
    "messages %}{% set role = 'model' if m['role'] == 'assistant' else m['role'] %}"
    "{{ '<start_of_turn>' + role + '\n' + m['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
PHI3 = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + '<|end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}"
    "{% endif %}"
)
ZEPHYR = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + eos_token + '\n' }}"
    "{% if loop.last and add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}{% endfor %}"
)
QWEN3 = (
    "{% set ns = namespace(last=0) %}{% for m in messages %}{% if m['role'] == 'user' %}"
    "{% set ns.last = loop.index0 %}{% endif %}{% endfor %}"
    "{% for m in messages %}{% set content = m['content'] %}{% set thought = '' %}"
    "{% if m['role'] == 'assistant' and '</think>' in content %}"
    "{% set thought = content.split('</think>')[0].rstrip('\n').split('<think>')[-1] %}"
    "{% set thought = thought.lstrip('\n') %}"
    "{% set content = content.split('</think>')[-1].lstrip('\n') %}{% endif %}"
    "{{ '<|im_start|>' + m['role'] + '\n' }}{% if m['role'] == 'assistant' and "
    "loop.index0 > ns.last and (loop.last or thought) %}"
    "{{ '<think>\n' + thought.strip('\n') + '\n</think>\n\n' }}{% endif %}"
    "{{ content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
R1 = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'system' %}{{ m['content'] }}"
    "{% elif m['role'] == 'user' %}{{ '<｜User｜>' + m['content'] }}{% else %}"
    "{{ '<｜Assistant｜>' + m['content'].split('</think>')[-1] + eos_token }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<｜Assistant｜><think>\n' }}{% endif %}"
)
LLAMA2 = (
    SYSTEM_FIRST + ALTERNATE + "{% for m in messages %}{% if m['role'] == 'user' %}"
    "{% set content = m['content'] %}{% if loop.first and system is defined %}"
    "{% set content = '<<SYS>>\n' + system + '\n<</SYS>>\n\n' + content %}{% endif %}"
    "{{ bos_token + '[INST] ' + content | trim + ' [/INST]' }}{% else %}"
    "{{ ' ' + m['content'] | trim + ' ' + eos_token }}{% endif %}{% endfor %}"
)
COMMAND = (
    "{{ bos_token }}{% for m in messages %}{% set role = {'system': 'SYSTEM', 'user': 'USER', "
    "'assistant': 'CHATBOT'}[m['role']] %}"
    "{{ '<|START_OF_TURN_TOKEN|><|' + role + '_TOKEN|>' + m['content'] | trim + "
    "'<|END_OF_TURN_TOKEN|>' }}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>' }}{% endif %}"
)
GLM = (
    "[gMASK]<sop>{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] }}"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
HARMONY = (
    "{% for m in messages %}{% if m['role'] == 'assistant' %}"
    "{{ '<|start|>assistant<|channel|>final<|message|>' + m['content'] }}"
    "{{ '<|return|>' if loop.last else '<|end|>' }}{% else %}"
    "{{ '<|start|>' + m['role'] + '<|message|>' + m['content'] + '<|end|>' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<|start|>assistant{% endif %}"
)
ALPACA = (
    "{% for m in messages %}{% if m['role'] == 'assistant' %}"
    "{{ '### Response:\n' + m['content'] + '\n\n' }}{% else %}"
    "{{ '### ' + m['role'] | title + ':\n' + m['content'] + '\n\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '### Response:\n' }}{% endif %}"
)
IM = ("<|im_start|>",)
TEMPLATES: dict[str, Template] = {
    "chatml": Template(CHATML, "<|endoftext|>", "<|im_end|>", IM),
    "llama3": Template(
        LLAMA3, "<|begin|>", "<|eot_id|>", ("<|start_header_id|>", "<|end_header_id|>")
    ),
    "mistral1": Template(MISTRAL1, "<s>", "</s>", system=False, alternates=True),
    "mistral3": Template(  # it leaves out the system turn once the conversation is answered
        MISTRAL3, "<s>", "</s>", ("[INST]", "[/INST]"), system=False, alternates=True
    ),
    "tekken": Template(
        TEKKEN, "<s>", "</s>", ("[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]")
    ),
    "gemma": Template(
        GEMMA,
        "<bos>",
        "<eos>",
        ("<start_of_turn>", "<end_of_turn>"),
        more_eos=("<end_of_turn>",),
        system=False,
        alternates=True,
    ),
    "phi3": Template(
        PHI3,
        "<s>",
        "<|endoftext|>",
        ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>"),
        more_eos=("<|end|>",),
    ),
    "zephyr": Template(ZEPHYR, "<s>", "</s>"),
    "qwen3": Template(QWEN3, "<|endoftext|>", "<|im_end|>", IM, ("<think>", "</think>")),
    "r1": Template(
        R1, "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", ("<｜User｜>", "<｜Assistant｜>")
    ),
    "llama2": Template(LLAMA2, "<s>", "</s>", alternates=True),
    "command": Template(
        COMMAND,
        "<BOS_TOKEN>",
        "<|END_OF_TURN_TOKEN|>",
        ("<|START_OF_TURN_TOKEN|>", "<|SYSTEM_TOKEN|>", "<|USER_TOKEN|>", "<|CHATBOT_TOKEN|>"),
    ),
    "glm": Template(
        GLM,
        "<sop>",
        "<|endoftext|>",
        ("[gMASK]", "<|system|>", "<|user|>", "<|assistant|>"),
        more_eos=("<|user|>",),
        ends=False,
    ),
    "harmony": Template(
        HARMONY,
        "<|startoftext|>",
        "<|return|>",
        ("<|start|>", "<|end|>", "<|channel|>", "<|message|>"),
    ),
    "alpaca": Template(ALPACA, "<s>", "</s>", ends=False),
}
