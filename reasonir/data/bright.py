"""BRIGHT: documents and examples of its tasks, from a folder or from the hub (arXiv 2407.12883).

    <root>/<task>/documents.jsonl        rows id, content; long_documents.jsonl: whole pages in place of passages
    <root>/<task>/examples.jsonl         rows id, query, gold_ids, excluded_ids, for pages gold_ids_long; maybe aspects
    <root>/<task>/<name>.jsonl           rewritten queries (`rewritings.py`)
    <root>/<task>/aspects.jsonl          aspects in Bright-Pro's form; instruction.txt: what to put before each query

The hub has the same rows in configurations `documents`, `long_documents`, `examples`, `<name>_reason` and `aspects`, a
split for each task. Invariant: every aspect's document lies in the corpus, and so does one gold document at least.
"""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from reasonir.core.errors import UserError
from reasonir.core.files import read_jsonl, read_text, under
from reasonir.data.aspects import Aspect, group_aspects, parse_aspects
from reasonir.data.collections import Collection, Document, Query, add_documents, query_fields
from reasonir.data.rewritings import Rewritten, read_rewritten
from reasonir.data.rows import find_hub, find_jsonl, load_hub, require_jsonl, text_id, text_ids

# In the order of the paper's tables.
BRIGHT_TASKS = (
    "biology", "earth_science", "economics", "psychology", "robotics", "stackoverflow", "sustainable_living",
    "leetcode", "pony", "aops", "theoremqa_questions", "theoremqa_theorems",
)  # fmt: skip
# Stands in the lists of ids for "none".
PLACEHOLDER = "N/A"
# Rows with their lines, and the name of their place for messages.
Table = tuple[Iterable[tuple[int, Mapping[str, Any]]], str]


def list_bright_tasks(root: str, long: bool = False) -> list[str]:
    """Return the names of the task folders under `root`, or of `root` itself where it is one task.

    Args:
        root: Folder, one task's folder, or hub:owner/name, whose splits are the tasks.
        long: Of a hub data set, only the tasks with whole pages.
    """
    if root.startswith("hub:"):
        # The hub has whole pages for some of the tasks only.
        return list(load_hub(root.removeprefix("hub:"), "long_documents" if long else "examples", None))
    folder = Path(root)
    if not folder.is_dir():
        raise UserError(f"data.dir={root}: no such folder")
    if find_jsonl(folder, "examples") is not None:
        return [folder.resolve().name]
    # Sorted, because a file system lists folders in any order.
    tasks = sorted(path.name for path in folder.iterdir() if path.is_dir() and find_jsonl(path, "examples") is not None)
    if not tasks:
        raise UserError(f"data.dir={root}: no task here (folders with examples.jsonl and documents.jsonl)")
    return tasks


def read_bright(root: str, tasks: Iterable[str], queries: str = "original", long: bool = False) -> Iterator[Collection]:
    """Yield one collection a task, read when it is asked for.

    Args:
        root: Folder, one task's folder, or hub:owner/name.
        tasks: Names in the order wanted.
        queries: "original", or rewritten queries, matched by id: a name, or a path (see `rewritten_file`).
        long: Use long_documents and gold_ids_long; aspects, whose documents are passages, are left out.
    """
    return (_read_task(root, task, queries, long) for task in tasks)


def read_bright_queries(root: str, task: str) -> list[Query]:
    """Return a task's queries without reading its documents; gold ids that the documents lack are not noticed."""
    return list(_bright_queries(*_table(root, task, "examples"), None, False, None, "", None))


def examples_file(root: str, task: str) -> Path:
    """Return the file of a task's queries."""
    return require_jsonl(_task_folder(root, task), "examples")


def _read_task(root: str, task: str, queries: str, long: bool) -> Collection:
    home = root.removeprefix("hub:") if root.startswith("hub:") else _task_folder(root, task)
    # A folder without long_documents.jsonl holds pages only, in documents.jsonl.
    has_pages = isinstance(home, str) or find_jsonl(home, "long_documents") is not None
    documents: dict[str, str] = {}
    add_documents(documents, *_table(root, task, "long_documents" if long and has_pages else "documents"))
    rows, source = _table(root, task, "examples")
    # Kept, because the rows are read twice: for the ids that aspects name, and as queries.
    examples = list(rows)
    # Aspects name passages, which a corpus of pages does not hold.
    table = None if long else _find_table(root, task, "aspects")
    ids = {text_id(row.get("id"), source) or "" for _, row in examples}
    aspects = None if table is None else group_aspects(*table, ids, documents)
    rewritten = read_rewritten(queries, task, home)
    parsed = list(_bright_queries(examples, source, documents, long, rewritten, queries, aspects))
    file = Path(home, "instruction.txt")
    instruction = read_text(file).strip() if isinstance(home, Path) and file.is_file() else ""
    return Collection(task, [Document(*item) for item in documents.items()], parsed, instruction)


def _table(root: str, task: str, name: str) -> Table:
    """Return a table that the task must have: a file of its folder, or its split of a configuration."""
    if root.startswith("hub:"):
        return enumerate(load_hub(root.removeprefix("hub:"), name, task), start=1), f"{root}/{name}/{task}"
    file = require_jsonl(_task_folder(root, task), name)
    return read_jsonl(file), str(file)


def _find_table(root: str, task: str, name: str) -> Table | None:
    """Return a table that the task may have."""
    if root.startswith("hub:"):
        found = find_hub(root.removeprefix("hub:"), name, task)
        return None if found is None else (enumerate(found, start=1), f"{root}/{name}/{task}")
    file = find_jsonl(_task_folder(root, task), name)
    return None if file is None else (read_jsonl(file), str(file))


def _task_folder(root: str, task: str) -> Path:
    folder = Path(root)
    # The user may have named the task's own folder as the root.
    if find_jsonl(folder, "examples") is None or folder.resolve().name != task:
        folder = under(folder, task, "tasks")
    if not folder.is_dir():
        raise UserError(f"{root}: no task {task!r}; there are {', '.join(list_bright_tasks(root))}")
    return folder


def _bright_queries(
    rows: Iterable[tuple[int, Mapping[str, Any]]],
    source: str,
    documents: Mapping[str, str] | None,
    long: bool,
    rewritten: Rewritten | None,
    rewriting: str,
    aspects: Mapping[str, tuple[Aspect, ...]] | None,
) -> Iterator[Query]:
    seen: set[str] = set()
    have_aspects: bool | None = None
    unknown, reached = "", False
    for line, row in rows:
        identifier, text = query_fields(row, f"{source}:{line}")
        if identifier in seen:
            raise UserError(f"{source}:{line}: query id {identifier!r} stands twice")
        seen.add(identifier)
        if rewritten is not None:
            other_line, other = rewritten.get(identifier, (0, None))
            if not isinstance(other, str) or not other.strip():
                state = "is missing" if other_line == 0 else "is empty"
                raise UserError(f"queries={rewriting}: the rewritten query of id {identifier!r} {state}")
            text = other
        gold = _ids(row, "gold_ids_long" if long else "gold_ids", source, line)
        outside = [] if documents is None else [i for i in gold if i not in documents]
        reached = reached or len(outside) < len(gold)
        if outside and not unknown:
            unknown = f"{source}:{line}: gold document id {outside[0]!r} is not in the corpus; nor is any other"
        inline = None if long or documents is None else row.get("aspects")
        own = () if documents is None else parse_aspects(inline, f"{source}:{line}", documents)
        own = own or (aspects or {}).get(identifier, ())
        # A mean over the queries with aspects would stand beside nDCG over all of them.
        # A query without gold is not judged and may lack aspects.
        if gold and have_aspects not in (None, bool(own)):
            state = "no aspects" if have_aspects else "aspects"
            raise UserError(
                f"{source}:{line}: query id {identifier!r} has {state}, unlike those before it; give all or none"
            )
        have_aspects = bool(own) if gold else have_aspects
        yield Query(identifier, text, dict.fromkeys(gold, 1), tuple(_ids(row, "excluded_ids", source, line)), own)
    # Some may be missing, as from a part of a corpus: they count as missed. Without any these are other documents.
    if unknown and not reached:
        raise UserError(unknown)


def _ids(row: Mapping[str, Any], name: str, source: str, line: int) -> list[str]:
    ids = text_ids(row.get(name) or [], f"{source}:{line}")
    if ids is None:
        raise UserError(f"{source}:{line}: `{name}` must be a list of ids")
    return [i for i in dict.fromkeys(ids) if i != PLACEHOLDER]


def bright_instruction(option: str, task: str, own: str, long: bool) -> str:
    """Return the query instruction of a task.

    The families follow the paper's evaluation (arXiv 2504.20595, code at release 0aac962): a word moves scores.

    Args:
        option: `none`, `bright` (the task folder's own instruction, else that of the task's family), or a text in
            which {task} stands for the task's name.
        task: The task's name.
        own: What the task folder asks for (`Collection.instruction`); "" where it says nothing.
        long: Whether whole pages are ranked.
    """
    if option == "none":
        return ""
    if option != "bright":
        return option.replace("{task}", task)
    if own:
        return own
    unit = "documents" if long else "passages"
    if task == "leetcode":
        return "Given a coding problem, retrieve relevant examples that help answer the problem"
    if task in ("aops", "theoremqa_questions"):
        return "Given a Math problem, retrieve relevant examples that help answer the problem"
    if task == "theoremqa_theorems":
        return "Given a Math problem, retrieve relevant theorems that help answer the problem"
    if task == "pony":
        return f"Given a {task} question, retrieve relevant {unit} that help answer the question"
    return f"Given a {task} post, retrieve relevant {unit} that help answer the post"
