"""Recipe `filter`, top to bottom: a corpus in, the documents worth writing queries for out.

Invariant: an interrupted run that is started again ends in the same bytes as an unbroken one, and scores no document
twice. Every document of the corpus comes out once, in documents.jsonl or with its reason in rejections.jsonl, both in
the order of the corpus. Texts stream; about 500 bytes a document stay in memory.
"""

import heapq
import json
import shutil
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import IO, Any

import torch

from reasonir.core.errors import UserError
from reasonir.core.files import naming, read_jsonl, whole_file, write_jsonl
from reasonir.core.progress import Progress
from reasonir.core.run_folder import RunFolder
from reasonir.core.stamp import (
    check_same_inputs,
    checked,
    checksums,
    digest_of,
    is_sound,
    read_stamp,
    unchanged,
    write_stamp,
)
from reasonir.data.collections import stream_documents
from reasonir.model.packing import token_budget_chunks
from reasonir.synth.config import MAY_DIFFER, REJECTIONS_FILE, FilterConfig
from reasonir.synth.gates.text import word_count
from reasonir.text.digests import DigestTable, text_digest
from reasonir.text.language import looks_english
from reasonir.text.near_duplicates import DuplicateTexts
from reasonir.text.words import one_spelling

DOCUMENTS_FILE, SURVEY_FILE = "documents.jsonl", "survey.json"
RETHRESHOLDED = ("min_score", "top", "chunk_tokens")
"""Options that may differ when a finished folder is run again: scores are kept, the choice is made anew."""
TEXTS_PER_BLOCK = 8_192
"""Texts sorted by length and scored together: 8,192 documents of 2,000 words are 100 MB."""
SCORE_DIGITS = 6
"""Of the scores in the files: float32 holds about seven, and the last one differs between machines."""


def filter_corpus(config: FilterConfig) -> dict[str, int]:
    """Write documents.jsonl (id, content, score) and rejections.jsonl (id, reason, value).

    Returns:
        Counts: documents, kept, and one for each reason.
    Raises:
        UserError: unreadable corpus or classifier, a corpus that changed under a run to be continued, nothing kept.
    """
    # 1 what is asked, and whether it can be done at all
    run = RunFolder(config.output_dir, config, resume=True, ignored=(*MAY_DIFFER, *RETHRESHOLDED))
    quality = QualityClassifier(config.classifier, config.label, config.max_tokens) if config.classifier else None
    inputs = [] if config.corpus.startswith("hub:") else [config.corpus]
    run.start()
    # 2 everything but the score, once for all later runs of the folder
    work = run.path / "work"
    work.mkdir(exist_ok=True)
    candidates, dropped = work / "candidates.jsonl", work / "dropped.jsonl"
    surveyed = candidates.exists() and dropped.exists() and _unchanged_survey(work)
    refusal = f"corpus={config.corpus} changed since {run.path} was begun; name a new output_dir"
    check_same_inputs(work / "input.json", inputs, begun=surveyed, refusal=refusal)
    if not surveyed:
        checks = Survey(config.min_words, config.max_words, config.english, config.near_duplicate)
        try:
            _survey(config.corpus, checks, candidates, dropped)
        except UserError:
            shutil.rmtree(work)  # a corpus that was refused binds nobody to it
            raise
        write_stamp(work / SURVEY_FILE, files=checksums(work, [candidates.name, dropped.name]))
    # 3 the scores, then the choice
    scores = None if quality is None else _score_all(quality, candidates, work, config.chunk_tokens)
    counts = choose(scores, candidates, dropped, run.path, min_score=config.min_score, top=config.top)
    if not counts["kept"]:
        raise UserError(f"no document of {config.corpus} is left ({_describe_counts(counts)}); loosen the options")
    # Only a run that kept something is finished; the work folder stays for a looser min_score or top.
    run.finish(inputs=inputs, counts=counts, classifier_fingerprint=quality.fingerprint if quality else None)
    print(f"{_describe_counts(counts)}: {run.path / DOCUMENTS_FILE}")
    return counts


def _unchanged_survey(work: Path) -> bool:
    """Return whether the files of the survey are as they were written; folders of older versions have no stamp."""
    stamp = read_stamp(work / SURVEY_FILE)
    return unchanged(work, stamp["files"]) if stamp else not (work / SURVEY_FILE).exists()


def _describe_counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in counts.items())


# --- without a model --------------------------------------------------------------------------------------------------


def _survey(corpus: str, checks: "Survey", candidates: Path, dropped: Path) -> None:
    """Write the documents that pass every check but the score, and the others with the reason."""
    # `dropped` gets its name last: both files are there, or the survey is made anew.
    with whole_file(dropped) as stream:
        write_jsonl(candidates, _survivors(corpus, checks, stream))


def _survivors(corpus: str, checks: "Survey", dropped: IO[str]) -> Iterator[dict[str, Any]]:
    progress = Progress("survey", 0, "documents")
    for position, document in enumerate(stream_documents(corpus)):
        verdict = checks.reject(document.id, document.text)
        if verdict is None:
            yield {"position": position, "id": document.id, "content": document.text}
        else:
            row = {"position": position, "id": document.id, "reason": verdict[0], "value": verdict[1]}
            dropped.write(json.dumps(row, ensure_ascii=False) + "\n")
        progress.update(1)
    progress.close()


class Survey:
    """All checks of a document but its score, against the ids, texts and signatures of the documents before it.

    Memory a document: about 150 bytes for two hashes and the id, and for each kept one 200 more of the index of
    near duplicates (its formula stands at `DuplicateTexts`); 1,000,000 kept documents are about 400 MiB.
    """

    def __init__(self, min_words: int, max_words: int | None, english: bool, near_duplicate: float) -> None:
        """Start with no document; each argument is the option of its name (`FilterConfig`)."""
        self._min_words, self._max_words, self._english = min_words, max_words, english
        self._ids, self._texts = DigestTable(), DigestTable()
        self._names: list[str] = []  # ids of distinct texts; the table of texts holds places in this list
        self._near = DuplicateTexts(near_duplicate) if near_duplicate else None
        self._near_ids: list[str] = []

    def reject(self, identifier: str, text: str) -> tuple[str, Any] | None:
        """Return (reason, value) against a document; None takes it in.

        Near duplicates are checked last: a document that is refused for another reason must not keep out a near copy
        of it that would pass. Equal texts are checked first, because their verdicts are equal too.
        """
        if not text.strip():
            return "empty", 0
        if self._ids.seen(identifier):
            return "same_id", None
        first = self._texts.setdefault(text_digest(one_spelling(text)), len(self._names))
        if first is not None:
            return "duplicate", self._names[first]
        self._names.append(identifier)
        count = word_count(text)
        if count < self._min_words:
            return "too_short", count
        if self._max_words is not None and count > self._max_words:
            return "too_long", count
        if self._english and not looks_english(text):
            return "not_english", text[:80]
        if self._near is not None:
            match = self._near.match_or_add(text)
            if match is not None:
                return "near_duplicate", self._near_ids[match[0]]
            self._near_ids.append(identifier)
        return None


# --- scores -----------------------------------------------------------------------------------------------------------


class QualityClassifier:
    """Quality scores by a sequence classifier of transformers.

    The score is the single logit of a model with one output; else the probability of `label`; without a label, the
    expected number of the label.
    """

    def __init__(self, path: str, label: str | None, max_tokens: int) -> None:
        """Load a classifier.

        Args:
            path: Folder or hub id.
            label: Whose probability is the score; None takes the logit or the expected label.
            max_tokens: Tokens of a document that the classifier reads; lowered to what the model can take.

        Raises:
            UserError: unreadable, without trained classifier weights, or without the label.
        """
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        try:
            self._model, notes = AutoModelForSequenceClassification.from_pretrained(path, output_loading_info=True)
            self._tokenizer = AutoTokenizer.from_pretrained(path)
        except (OSError, ValueError) as error:
            raise UserError(f"classifier={path} cannot be loaded: {str(error).strip().splitlines()[0]}") from error
        # transformers draws missing weights at random and goes on with a warning.
        if notes["missing_keys"]:
            missing = sorted(notes["missing_keys"])[0]
            raise UserError(f"classifier={path} is no trained classifier: it lacks {missing}; name a fine-tuned one")
        # Decoders often come without one, and transformers' classifiers find the last token of a text by it.
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
        # A tokenizer without a limit declares 10^30 tokens; a model may declare none.
        return min(self._tokenizer.model_max_length, positions)

    def _fingerprint(self) -> str:
        def parts() -> Iterator[str | bytes]:
            # Label and limit change scores as weights do; the folder's name does not.
            yield f"{self._model.config.id2label}|{self._label}|{self._max_tokens}"
            for name, weight in sorted(self._model.state_dict().items()):
                yield f"{name}\0"
                yield weight.detach().float().cpu().contiguous().numpy().tobytes()

        return digest_of(parts())

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


def _score_all(quality: QualityClassifier, candidates: Path, work: Path, chunk_tokens: int) -> dict[str, float]:
    """Return the score of every candidate, by id; scores that lie in the work folder are not computed again."""
    # Named by the classifier: scores of other weights stay apart.
    store = work / f"scores-{quality.fingerprint[:16]}.jsonl"
    scores = _stored_scores(store)
    # Counted in a pass of its own: the time left is worth more than reading the file once more.
    total = sum(1 for _ in _lines(candidates))
    progress = Progress("score", total, "documents", done=len(scores))
    rows = _lines(candidates)
    with store.open("a", encoding="utf-8") as stream:
        while block := list(islice(rows, TEXTS_PER_BLOCK)):
            # Asked before tokenising, which is most of what a scored block would cost.
            if all(row["id"] in scores for row in block):
                continue
            for batch in quality.batches([row["content"] for row in block], chunk_tokens):
                new = [place for place, number in enumerate(batch) if block[number]["id"] not in scores]
                if not new:
                    continue
                # The whole batch, as in an unbroken run: the longest text sets the padding, and scores depend on it.
                values = quality.score([block[number]["content"] for number in batch])
                found = {block[batch[place]]["id"]: values[place] for place in new}
                lines = (json.dumps(checked({"id": i, "score": value})) + "\n" for i, value in found.items())
                with naming(store):
                    stream.write("".join(lines))
                    # A kill costs one batch.
                    stream.flush()
                scores |= found
                progress.update(len(found))
    progress.close()
    return scores


def _stored_scores(store: Path) -> dict[str, float]:
    """Return the scores of an earlier run; a last line that a kill left unfinished is cut off the file.

    Damaged lines are passed over: their documents are scored again.
    """
    if not store.exists():
        return {}
    content = store.read_bytes()
    # What follows the last line end was being written when the process died.
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content):
        with store.open("r+b") as stream:
            stream.truncate(len(whole))
    rows = filter(None, map(_sound_row, whole.splitlines()))
    return {row["id"]: row["score"] for row in rows}


def _sound_row(line: bytes) -> dict[str, Any] | None:
    try:
        row: dict[str, Any] = json.loads(line)
        return row if is_sound(row) else None
    except (ValueError, AttributeError):
        return None


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    # `read_jsonl` refuses an empty file, and a survey may well drop nothing or everything.
    if path.stat().st_size:
        for _, row in read_jsonl(path):
            yield row


# --- the choice -------------------------------------------------------------------------------------------------------


def choose(
    scores: dict[str, float] | None,
    candidates: Path,
    dropped: Path,
    folder: Path,
    *,
    min_score: float | None,
    top: int | None,
) -> dict[str, int]:
    """Apply threshold and number, write the two files, return the counts.

    Args:
        scores: By id; None where nothing is scored.
        candidates: Documents that passed all other checks, with their positions in the corpus.
        dropped: The others, with positions and reasons.
        folder: Where the two files go.
        min_score: Least score; None is no bound.
        top: Best documents to keep, by score, then id; None keeps all.
    """
    floor = float("-inf") if min_score is None else min_score
    chosen: set[str] | None = None
    if scores is not None and top is not None:
        # Equal scores by id, so that the choice does not depend on the order in which scores were stored.
        eligible = ((-score, identifier) for identifier, score in scores.items() if score >= floor)
        chosen = {identifier for _, identifier in heapq.nsmallest(top, eligible)}
    reasons: Counter[str] = Counter()

    def verdict(identifier: str) -> str | None:
        if scores is None:
            return None
        if not scores[identifier] >= floor:  # a score that is no number fails too
            return "low_score"
        return "beyond_top" if chosen is not None and identifier not in chosen else None

    # Candidates are read twice, for either file, so that no text is held.
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
        # Both streams are in the order of the corpus; merging keeps the order without sorting.
        for row in heapq.merge(_lines(dropped), late, key=lambda row: row["position"]):
            reasons[row["reason"]] += 1
            yield {name: row[name] for name in ("id", "reason", "value")}

    count = write_jsonl(folder / DOCUMENTS_FILE, kept())
    rejected = write_jsonl(folder / REJECTIONS_FILE, refused())
    return {"documents": count + rejected, "kept": count, **dict(sorted(reasons.items()))}
