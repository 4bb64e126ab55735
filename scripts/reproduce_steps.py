"""What `reproduce.sh` does, costs and should give: its steps, and at the paper's scale the published numbers.

Numbers are points (hundredths). Costs are what the paper, its release or a limit of our options says; "not measured"
where nobody here has run it.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Step:
    """One step. cost: at the paper's scale; small: with real models on a CPU; tiny: what stands in for them there."""

    name: str
    does: str
    cost: str
    small: str
    tiny: str

    def at(self, scale: str) -> str:
        """Return what the step takes at a scale."""
        return {"paper": self.cost, "small": self.small, "tiny": self.tiny}[scale]


STEPS = (
    Step(
        "synth",
        "filter, hq, vl, eq, and a hard negative for every row",
        "a generator of 70 B parameters; tokens not measured (by the limits at most 0.41 billion for hq: 100,521 "
        "requests of 4,096); the filter's classifier on 1 GPU, hours not measured",
        "120 passages: easy queries for all, hard ones for 4, 2 varied-length rows; mined negatives",
        "some 1,100 requests to rules",
    ),
    Step(
        "train",
        "ReasonIR-8B: Llama-3.1-8B on public, VL and HQ rows, 1,000 steps of 2,048 queries",
        "16 x 8 GPUs of 80 GB in the release, or 8 at some 16 times the time; hours not measured",
        "SmolLM2-135M in both directions, 12 steps of 16 queries",
        "40 steps of 32 queries, a Llama of half a million parameters",
    ),
    Step(
        "bright",
        "the BRIGHT table: original and GPT-4's queries; the released model and BM25 beside ours",
        "1.33 million passages a model, once: 8 GPUs, hours not measured; BM25 on a CPU",
        "some 40 held-out queries in 120 passages, and 40 queries of BENCHMARK",
        "one task of the built-in world, 40 queries; no GPT-4 rewrites there",
    ),
    Step(
        "rewrite",
        "BRIGHT's 1,384 queries rewritten, and measured",
        "Llama-3.1-8B-Instruct in vLLM, 1 GPU; at most 2.8 million tokens written; hours not measured",
        "40 queries of BENCHMARK rewritten, searched by BM25",
        "40 queries rewritten by rules",
    ),
    Step(
        "rerank",
        "the first 100 of every GPT-4 query judged by Qwen2.5-32B-Instruct",
        "138,400 prompts of up to 16,384 tokens in vLLM, the GPUs of one machine; hours not measured",
        "the first 3 passages of every held-out query judged",
        "the first 10 of 40 queries judged by rules",
    ),
    Step(
        "rag",
        "MMLU and GPQA-diamond, closed book and with passages from MassiveDS",
        "two pools encoded (their size is printed first), 14,042 and 198 questions twice; Llama-3.1-8B-Instruct and "
        "Qwen2.5-7B-Instruct in vLLM, 1 GPU; hours not measured",
        "20 questions of QUESTIONS, closed book and with one passage",
        "30 questions, a reader that is rules",
    ),
    Step(
        "ablations",
        "public, VL, HQ and EQ rows alone, each trained and measured on both kinds of queries",
        "four times train, and eight dense rows of bright; hours not measured",
        "the same training without mined negatives",
        "four trainings of 16 steps",
    ),
)

EVALUATION = "evaluation alone: same weights and queries, other numerics"
TRAINING = "a new training on newly drawn rows; the paper gives no spread, our guess"
SAMPLED = "answers are sampled, our prompts are worded anew; the paper gives no spread, our guess"


@dataclass(frozen=True, slots=True)
class Published:
    """A published number. where: file and keys (a fraction of 1). tolerance: points, either way. why: its reason."""

    step: str
    name: str
    where: tuple[str, ...]
    points: float
    tolerance: float
    why: str


AVERAGE = ("average", "ndcg_at_10")


def _bright(step: str, name: str, folder: str, points: float, tolerance: float, why: str) -> Published:
    return Published(step, f"BRIGHT nDCG@10, {name}", (f"{folder}/results.json", *AVERAGE), points, tolerance, why)


def _accuracy(task: str, condition: str, points: float, tolerance: float, why: str) -> Published:
    where = (f"{task}/accuracy.json", "conditions", condition, "all", "accuracy")
    return Published("rag", f"{task.upper()} accuracy, {condition.replace('_', ' ')}", where, points, tolerance, why)


MMLU = "twice the 95 % interval of 14,042 questions; other prompts"
GPQA = "the 95 % interval of 198 questions"

PUBLISHED = (
    _bright("bright", "released ReasonIR-8B, original queries", "bright/released", 24.4, 0.3, EVALUATION),
    _bright("bright", "released ReasonIR-8B, GPT-4 queries", "bright/released_gpt4", 29.9, 0.3, EVALUATION),
    _bright("bright", "ours, original queries", "bright/trained", 24.4, 1.0, TRAINING),
    _bright("bright", "ours, GPT-4 queries", "bright/trained_gpt4", 29.9, 1.0, TRAINING),
    _bright("bright", "ours and BM25 by halves, GPT-4 queries", "bright/hybrid_gpt4", 32.0, 1.0, TRAINING),
    _bright("bright", "BM25, original queries", "bright/bm25", 14.5, 0.3, EVALUATION),
    _bright("bright", "BM25, GPT-4 queries", "bright/bm25_gpt4", 27.0, 0.8, "two rows circulate, 26.5 and 27.0"),
    _bright("rewrite", "ours, Llama-3.1-8B queries", "bright/rewritten", 28.0, 1.0, SAMPLED),
    _bright("rerank", "ours, GPT-4 queries, reranked", "reranked", 36.9, 1.0, SAMPLED),
    _accuracy("mmlu", "closed_book", 71.1, 1.5, MMLU),
    _accuracy("mmlu", "retrieved", 75.6, 1.5, MMLU),
    _accuracy("gpqa", "closed_book", 31.3, 6.5, GPQA),
    _accuracy("gpqa", "retrieved", 38.4, 6.8, GPQA),
    _bright("ablations", "VL alone, original queries", "bright/vl", 23.2, 1.0, TRAINING),
    _bright("ablations", "HQ alone, GPT-4 queries", "bright/hq_gpt4", 28.5, 1.0, TRAINING),
)


@dataclass(frozen=True, slots=True)
class Order:
    """A claim of the paper without a figure at hand: the first result lies above the second."""

    step: str
    name: str
    higher: str
    lower: str


ORDERS = (
    Order("ablations", "HQ alone above EQ alone, GPT-4 queries", "bright/hq_gpt4", "bright/eq_gpt4"),
    Order("ablations", "all data above public alone, original queries", "bright/trained", "bright/public"),
)
