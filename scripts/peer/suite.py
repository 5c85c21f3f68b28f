"""The rows of docs/performance.md: models, cases, and the ratio to the peer that each row aims at. Data and look-up only."""

from dataclasses import dataclass

from cases import parse_case


@dataclass(frozen=True)
class Row:
    """`target`: the ratio aimed at; `stretch`: the ratio hoped for, or None; `roof`: the share of the roof hoped for; `loss`: of
    a lossy case, what a strategy allows for it and a sentence about what was measured to be lost."""

    model: str
    case: str
    target: float
    stretch: object = None
    roof: object = None
    loss: object = None


def _context_loss(divergence, same):
    return (
        f"At 8000 tokens of context, on the text of five that loses most: {divergence:.3f} nats of mean KL divergence from "
        f"exact attention, the same most probable token at {100 * same:.0f} % of the positions."
    )


# What the planner chooses with the allowances named, and what it loses. Keys and values: measured by scripts/sparse-quality at
# 8000 tokens of context. Classes of arithmetic: as the planner knows it (docs/COST_MODEL.md).
_FIVE = ("sparse_attention: 5%, kv_quant: int8", _context_loss(0.0183, 0.906))
_TEN = ("sparse_attention: 10%, kv_quant: int8", _context_loss(0.0802, 0.875))
_TWENTY = ("sparse_attention: 20%, kv_quant: int8", _context_loss(0.1537, 0.820))
_CHANNEL = (
    "weight_quant: int8",
    "Against arithmetic in f32 on the weights as stored: 0.0067 nats of mean KL divergence.",
)

# Short name, name for people, file.
MODELS = {
    "smollm2": ("SmolLM2-135M-Instruct Q4_1", "smollm2-135m-instruct-q4_1.gguf"),
    "qwen05": ("Qwen2.5-Coder-0.5B-Instruct", "qwen2.5-coder-0.5b-instruct.gguf"),
    "qwen15": ("Qwen2.5-Coder-1.5B-Instruct", "qwen2.5-coder-1.5b-instruct.gguf"),
}

ROWS = (
    Row("smollm2", "decode:depth=0", 1.6, 2.1, 0.85),
    Row("smollm2", "decode:depth=2048", 3.0, 4.5),
    Row("smollm2", "decode:depth=7900", 4.0, 7.0),
    Row("smollm2", "decode:depth=7900 kv=int8 attention=sparse:256", 8.0, 12.0, None, _FIVE),
    Row("smollm2", "decode:depth=7900 kv=int8 attention=sparse:128", 8.0, 12.0, None, _TEN),
    Row("smollm2", "decode:depth=7900 kv=int8 attention=sparse:64", 8.0, 12.0, None, _TWENTY),
    Row("smollm2", "branches:n=8,prompt=512,gen=64", 4.5, 7.0),
    Row("smollm2", "branches:n=32,prompt=512,gen=64", 8.0, 18.0),
    Row("smollm2", "branches:n=32,prompt=512,gen=64 numerics=int8-channel", 8.0, 18.0, None, _CHANNEL),
    Row("smollm2", "prefill:n=512", 4.0, 10.0),
    Row("smollm2", "prefill:n=512 numerics=int8-channel", 4.0, 10.0, None, _CHANNEL),
    Row("smollm2", "prefill:n=2048", 4.0, 10.0),
    Row("smollm2", "score:n=16,prompt=512,len=128", 4.0),
    Row("qwen05", "decode:depth=0", 1.4, None, 0.85),
    Row("qwen05", "decode:depth=4096", 1.8, None, 0.85),
    Row("qwen15", "decode:depth=0", 1.3, None, 0.85),
)

# Cases on which the driver of the peer is compared with the peer's own tools.
DRIVER_CHECKS = ("decode:depth=0", "branches:n=8,prompt=512,gen=64", "prefill:n=512")


# What stands before the value of an option that loses something.
_WORDS = {"numerics": "layers in", "kv": "KV", "attention": "attention"}


def label(case):
    """A case in words."""
    case = parse_case(case) if isinstance(case, str) else case
    words = {
        "decode": lambda: f"decode, depth {case['depth']}",
        "branches": lambda: f"{case['n']} branches over a prompt of {case['prompt']}, {case['gen']} tokens each",
        "prefill": lambda: f"prefill of {case['n']}",
        "score": lambda: f"scoring {case['n']} texts of {case['len']} after a prompt of {case['prompt']}",
    }
    return ", ".join([words[case.kind](), *(f"{_WORDS[name]} {value}" for name, value in case.lossy)])


def brief(case):
    """A case in few words, for plots."""
    case = parse_case(case)
    words = {
        "decode": lambda: f"decode at {case['depth']}",
        "branches": lambda: f"{case['n']} branches",
        "prefill": lambda: f"prefill {case['n']}",
        "score": lambda: f"scoring {case['n']}×{case['len']}",
    }
    return " ".join([words[case.kind](), *(value for _, value in case.lossy)])
