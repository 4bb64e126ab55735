"""What is put before BRIGHT's queries: the words of the paper's evaluation, or the user's."""

from reasonir.corpora import Collection


def bright_instruction(option: str, collection: Collection, long: bool) -> str:
    """Return the query instruction of a task.

    The `bright` preset follows the families of the paper's evaluation, filled with the raw task id; a task folder's
    own instruction.txt comes before it. arXiv 2504.20595, release 0aac962.
    """
    if option == "none":
        return ""
    if option != "bright":
        return option.replace("{task}", collection.name)
    if collection.instruction:
        return collection.instruction
    task, unit = collection.name, "documents" if long else "passages"
    if task == "leetcode":
        return "Given a coding problem, retrieve relevant examples that help answer the problem"
    if task in ("aops", "theoremqa_questions"):
        return "Given a Math problem, retrieve relevant examples that help answer the problem"
    if task == "theoremqa_theorems":
        return "Given a Math problem, retrieve relevant theorems that help answer the problem"
    if task == "pony":
        return f"Given a {task} question, retrieve relevant {unit} that help answer the question"
    return f"Given a {task} post, retrieve relevant {unit} that help answer the post"
