"""What to type to run a task in lm-evaluation-harness and inspect_ai, and the page that says so."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from shlex import quote

NO_SPECIAL = "{add_special_tokens: false}"
# In quotes of its own, as inspect_ai reads the value as YAML.
PLAIN_TEMPLATE = '"{{ messages[-1].content }}"'


def commands(folder: Path, name: str, kind: str, arguments: Mapping[str, bool], begun: bool) -> dict[str, str]:
    """The command lines by program.

    MODEL stands for a folder that `nasa-interp export --format hf` wrote, or a hub id; in the line for a served model
    for the name that the server knows, and ADDRESS for the server's.

    Args:
        folder: of the task.
        name: of the group.
        kind: "chat" or "plain".
        arguments: what the chat template has to be given.
        begun: whether the chat template writes the token that texts begin with, which the tokenizer mustn't add again.
    """
    given = "".join(f",{key}={value}" for key, value in arguments.items())
    harness = f"lm_eval --model hf --model_args pretrained=MODEL,dtype=float32{given}"
    harness += f" --include_path {quote(str(folder))} --tasks {name}"
    # inspect_ai finds files of tasks only below where it is started.
    inspect = f"cd {quote(str(folder))} && inspect eval {name}.py --model hf/local -M model_path=MODEL"
    inspect += " -M do_sample=false"
    inspect += "".join(f" -M {key}={str(value).lower()}" for key, value in arguments.items())
    if kind == "chat" and begun:
        inspect += f" -M tokenizer_call_args={quote(NO_SPECIAL)}"
    if kind == "plain":
        return {"lm_eval": harness, "inspect_ai": f"{inspect} -M chat_template={quote(PLAIN_TEMPLATE)}"}
    lines = {"lm_eval": f"{harness} --apply_chat_template", "inspect_ai": inspect}
    if not arguments:
        # A server fills in the template by itself, with no arguments of ours.
        server = "SERVED_BASE_URL=ADDRESS SERVED_API_KEY=${SERVED_API_KEY:-none}"
        served = f"cd {quote(str(folder))} && {server} inspect eval {name}.py --model openai-api/served/MODEL"
        lines["inspect_ai, served"] = served
    return lines


def readme(name: str, kind: str, n_questions: int, orders: Sequence[str], lines: Mapping[str, str]) -> str:
    """The page beside the task."""
    tasks = " and ".join(f"`{name}_{order}`" for order in orders)
    warning = (
        "Without `--apply_chat_template` lm-evaluation-harness asks without the template, and the numbers are others."
        if kind == "chat"
        else "Without `-M chat_template=...` inspect_ai makes a chat of it; only its `hf` provider asks plain text."
    )
    served = ""
    if line := lines.get("inspect_ai, served"):
        served = f"""
A model behind an OpenAI-compatible address (ADDRESS, such as http://127.0.0.1:8080/v1), which has to return
log-probabilities:

```
{line}
```
"""
    return f"""# {name}

{n_questions} yes-no questions by nasa-interp, in {kind} prompts: {tasks}, one for each order of the candidates.
The group `{name}` gives the means over both. MODEL is a folder that `nasa-interp export` wrote, or a hub id.

```
{lines["lm_eval"]}
{lines["inspect_ai"]}
```

{warning}
{served}
`acc` is the rate of right answers, `yes_rate` that of Yes, `mean_logit_difference` the mean of log P(No) - log P(Yes):
those of `nasa-interp decide` on the same questions in float32. `answered` (inspect_ai): how often either answer was
among the likeliest tokens that the model returned. The folder may be moved; the paths above are those of where it was
written.
"""
