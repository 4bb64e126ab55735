"""Recipe `filter`, top to bottom: a corpus in, the documents worth writing queries for out.

Invariant: an interrupted run that is started again ends in the same bytes as an unbroken one, and scores nothing
twice. Every document that goes in comes out once, in documents.jsonl or with its reason in rejections.jsonl, both in
the order of the corpus. Texts stream; what stays in memory is about 500 bytes a document.
"""

import hashlib
import heapq
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

import torch

from reasonir.core.errors import UserError
from reasonir.core.files import read_jsonl, write_json, write_jsonl
from reasonir.core.progress import Progress
from reasonir.core.run_folder import RunFolder, describe_inputs
from reasonir.data.collections import stream_documents
from reasonir.model.packing import token_budget_chunks
from reasonir.synth.config import MAY_DIFFER, FilterConfig
from reasonir.synth.gates.text import word_count
from reasonir.text.digests import DigestTable, text_digest
from reasonir.text.language import looks_english
from reasonir.text.near_duplicates import DuplicateTexts
from reasonir.text.words import one_spelling

DOCUMENTS_FILE, REJECTIONS_FILE = "documents.jsonl", "rejections.jsonl"
RETHRESHOLDED = ("min_score", "top", "chunk_tokens")
"""Options that a finished folder may be run again with: scores are kept, the choice is made anew."""
TEXTS_PER_BLOCK = 8_192
"""Texts sorted by length and scored together: 8,192 documents of 2,000 words are 100 MB."""
SCORE_DIGITS = 6


def filter_corpus(config: FilterConfig) -> dict[str, int]:
    """Write documents.jsonl (id, content, score) and rejections.jsonl (id, reason, value).

    Returns:
        Counts: documents, kept, and one for each reason.
    Raises:
        UserError: unreadable corpus or classifier, a corpus that changed under a run to be continued, nothing kept.
    """
    run = RunFolder(config.output_dir, config, resume=True, ignored=(*MAY_DIFFER, *RETHRESHOLDED))
    quality = QualityClassifier(config.classifier, config.label, config.max_tokens) if config.classifier else None
    inputs = [] if config.corpus.startswith("hub:") else [config.corpus]
    run.start()
    work = run.path / "work"
    work.mkdir(exist_ok=True)
    candidates, dropped = work / "candidates.jsonl", work / "dropped.jsonl"
    surveyed = candidates.exists() and dropped.exists()
    check_same_input(work / "input.json", inputs, begun=surveyed)
    if not surveyed:
        try:
            survey(config, candidates, dropped)
        except UserError:
            shutil.rmtree(work)  # a corpus that was refused binds nobody to it
            raise
    scores = None if quality is None else score_all(quality, candidates, work, config.chunk_tokens)
    counts = choose(config, scores, candidates, dropped, run.path)
    if not counts["kept"]:
        raise UserError(f"no document of {config.corpus} is left ({describe(counts)}); loosen the options")
    run.finish(inputs=inputs, counts=counts, classifier_fingerprint=quality.fingerprint if quality else None)
    print(f"{describe(counts)}: {run.path / DOCUMENTS_FILE}")
    return counts


def describe(counts: dict[str, int]) -> str:
    """Return counts in words."""
    return ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in counts.items())


def check_same_input(record: Path, inputs: list[str], begun: bool) -> None:
    """Note what the corpus holds; refuse to go on with another one where something was made from it."""
    described = [{"path": one["path"], "sha256": one["sha256"]} for one in describe_inputs(inputs)]
    if not begun or not record.exists():
        write_json(record, described)
    elif json.loads(record.read_text(encoding="utf-8")) != described:
        raise UserError(f"corpus={inputs[0]} changed since {record.parent.parent} was begun; name a new output_dir")


# --- without a model --------------------------------------------------------------------------------------------------


def survey(config: FilterConfig, candidates: Path, dropped: Path) -> None:
    """Write the documents that pass every check but the score, and the others with the reason."""
    scratch = dropped.with_name(f".{dropped.name}.partial")
    with scratch.open("w", encoding="utf-8") as stream:
        write_jsonl(candidates, _survivors(config, stream))
    os.replace(scratch, dropped)


def _survivors(config: FilterConfig, dropped: TextIO) -> Iterator[dict[str, Any]]:
    judge = Survey(config)
    progress = Progress("survey", 0, "documents")
    for position, document in enumerate(stream_documents(config.corpus)):
        verdict = judge.reject(document.id, document.text)
        if verdict is None:
            yield {"position": position, "id": document.id, "content": document.text}
        else:
            row = {"position": position, "id": document.id, "reason": verdict[0], "value": verdict[1]}
            dropped.write(json.dumps(row, ensure_ascii=False) + "\n")
        progress.update(1)
    progress.close()


class Survey:
    """What a document is compared with: the ids, texts and signatures of those before it.

    Memory a document: about 200 bytes for two hashes and the id, and for each kept one 200 more of the index of
    near duplicates (its formula stands at `DuplicateTexts`); 1,000,000 kept documents are about 450 MiB.
    """

    def __init__(self, config: FilterConfig) -> None:
        self._config = config
        self._ids = DigestTable()
        self._first_of: dict[int, str] = {}
        self._near = DuplicateTexts(config.near_duplicate) if config.near_duplicate else None
        self._near_ids: list[str] = []

    def reject(self, identifier: str, text: str) -> tuple[str, Any] | None:
        """Return (reason, value) against a document; None takes it in.

        The order: a document that is itself refused must not shadow a near copy of it that would pass. Only equal
        texts come first, whose verdict is the same.
        """
        if not text.strip():
            return "empty", 0
        if self._ids.seen(identifier):
            return "same_id", None
        first = self._first_of.setdefault(text_digest(one_spelling(text)), identifier)
        if first is not identifier:
            return "duplicate", first
        count, config = word_count(text), self._config
        if count < config.min_words:
            return "too_short", count
        if config.max_words is not None and count > config.max_words:
            return "too_long", count
        if config.english and not looks_english(text):
            return "not_english", text[:80]
        if self._near is not None:
            match = self._near.match_or_add(text)
            if match is not None:
                return "near_duplicate", self._near_ids[match[0]]
            self._near_ids.append(identifier)
        return None


# --- scores -----------------------------------------------------------------------------------------------------------


class QualityClassifier:
    """A sequence classifier of transformers as a score: its one output, a label's probability, the expected label."""

    def __init__(self, path: str, label: str | None, max_tokens: int) -> None:
        """Load a folder or hub id.

        Raises:
            UserError: unreadable, without trained classifier weights, or without the label.
        """
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        try:
            self._model, notes = AutoModelForSequenceClassification.from_pretrained(path, output_loading_info=True)
            self._tokenizer = AutoTokenizer.from_pretrained(path)
        except (OSError, ValueError) as error:
            raise UserError(f"classifier={path} cannot be loaded: {str(error).strip().splitlines()[0]}") from error
        if notes["missing_keys"]:
            missing = sorted(notes["missing_keys"])[0]
            raise UserError(f"classifier={path} is no trained classifier: it lacks {missing}; name a fine-tuned one")
        if self._tokenizer.pad_token is None:
            self._tokenizer.pad_token = self._tokenizer.eos_token
            self._model.config.pad_token_id = self._tokenizer.pad_token_id
        self._label = self._find_label(path, label)
        self._max_tokens = min(max_tokens, self._longest())
        self._model.eval().to("cuda" if torch.cuda.is_available() else "cpu")
        self.fingerprint = self._fingerprint()

    def _find_label(self, path: str, label: str | None) -> int | None:
        known = {str(name): int(number) for number, name in self._model.config.id2label.items()}
        if label is None:
            return None
        if label not in known or len(known) == 1:
            raise UserError(f"label={label}: {path} has the labels {', '.join(known)}; a single one needs label=null")
        return known[label]

    def _longest(self) -> int:
        positions = getattr(self._model.config, "max_position_embeddings", None) or 10**9
        return min(self._tokenizer.model_max_length, positions)

    def _fingerprint(self) -> str:
        digest = hashlib.sha256(f"{self._model.config.id2label}|{self._label}|{self._max_tokens}".encode())
        for name, weight in sorted(self._model.state_dict().items()):
            digest.update(name.encode() + b"\0" + weight.detach().float().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def batches(self, texts: list[str], chunk_tokens: int) -> Iterator[list[int]]:
        """Yield the positions of texts that are scored together: of like length, longest first."""
        lengths = [len(ids) for ids in self._tokenise(texts)["input_ids"]]
        for chunk in token_budget_chunks(lengths, chunk_tokens):
            yield chunk.tolist()

    def _tokenise(self, texts: list[str]) -> Any:
        return self._tokenizer(texts, truncation=True, max_length=self._max_tokens)

    @torch.no_grad()
    def score(self, texts: list[str]) -> list[float]:
        """Return the texts' scores, computed together, in float32."""
        batch = self._tokenizer.pad(self._tokenise(texts), return_tensors="pt").to(self._model.device)
        logits = self._model(**batch).logits.float().cpu()
        if logits.shape[1] == 1:
            scores = logits[:, 0]
        elif self._label is not None:
            scores = logits.softmax(dim=1)[:, self._label]
        else:
            scores = logits.softmax(dim=1) @ torch.arange(logits.shape[1], dtype=torch.float32)
        return [round(float(score), SCORE_DIGITS) for score in scores]


def score_all(quality: QualityClassifier, candidates: Path, work: Path, chunk_tokens: int) -> dict[str, float]:
    """Return the score of every candidate, by id; those already in the work folder are not computed again.

    A batch is computed as in an unbroken run, whatever part of it is known, so that padding changes no score.
    """
    store = work / f"scores-{quality.fingerprint[:16]}.jsonl"
    scores = _stored_scores(store)
    total = sum(1 for _ in _lines(candidates))
    progress = Progress("score", total, "documents", done=len(scores))
    rows = _lines(candidates)
    with store.open("a", encoding="utf-8") as stream:
        while block := list(islice(rows, TEXTS_PER_BLOCK)):
            if all(row["id"] in scores for row in block):
                continue
            for batch in quality.batches([row["content"] for row in block], chunk_tokens):
                new = [place for place, number in enumerate(batch) if block[number]["id"] not in scores]
                if not new:
                    continue
                values = quality.score([block[number]["content"] for number in batch])
                found = {block[batch[place]]["id"]: values[place] for place in new}
                stream.write("".join(json.dumps({"id": i, "score": value}) + "\n" for i, value in found.items()))
                stream.flush()
                scores |= found
                progress.update(len(found))
    progress.close()
    return scores


def _stored_scores(store: Path) -> dict[str, float]:
    """Read what an earlier run scored; a last line that it did not finish is cut off."""
    if not store.exists():
        return {}
    content = store.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content):
        with store.open("r+b") as stream:
            stream.truncate(len(whole))
    rows = (json.loads(line) for line in whole.splitlines())
    return {row["id"]: row["score"] for row in rows}


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    if path.stat().st_size:
        for _, row in read_jsonl(path):
            yield row


# --- the choice -------------------------------------------------------------------------------------------------------


def choose(
    config: FilterConfig, scores: dict[str, float] | None, candidates: Path, dropped: Path, folder: Path
) -> dict[str, int]:
    """Apply threshold and number, write the two files, return the counts."""
    floor = float("-inf") if config.min_score is None else config.min_score
    chosen: set[str] | None = None
    if scores is not None and config.top is not None:
        eligible = ((-score, identifier) for identifier, score in scores.items() if score >= floor)
        chosen = {identifier for _, identifier in heapq.nsmallest(config.top, eligible)}
    reasons: Counter[str] = Counter()

    def verdict(identifier: str) -> str | None:
        if scores is None:
            return None
        if not scores[identifier] >= floor:  # a score that is no number fails too
            return "low_score"
        return "beyond_top" if chosen is not None and identifier not in chosen else None

    def kept() -> Iterator[dict[str, Any]]:
        for row in _lines(candidates):
            if verdict(row["id"]) is None:
                scored = {} if scores is None else {"score": scores[row["id"]]}
                yield {"id": row["id"], "content": row["content"], **scored}

    def refused() -> Iterator[dict[str, Any]]:
        late = (
            {"position": row["position"], "id": row["id"], "reason": reason, "value": (scores or {})[row["id"]]}
            for row in _lines(candidates)
            if (reason := verdict(row["id"])) is not None
        )
        for row in heapq.merge(_lines(dropped), late, key=lambda row: row["position"]):
            reasons[row["reason"]] += 1
            yield {name: row[name] for name in ("id", "reason", "value")}

    count = write_jsonl(folder / DOCUMENTS_FILE, kept())
    rejected = write_jsonl(folder / REJECTIONS_FILE, refused())
    return {"documents": count + rejected, "kept": count, **dict(sorted(reasons.items()))}
