"""What several commands ask for: options, and how they become models, questions, styles and interventions."""

from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import NasaInterpError

ModelArg = Annotated[str, typer.Argument(metavar="MODEL", help="demo, a hub id, a folder, or a .gguf file")]
DataOpt = Annotated[str, typer.Option("--data", help="builtin:verify#test, strategyqa:PATH, or a .jsonl/.csv file")]
OrderOpt = Annotated[str, typer.Option(help="candidate order in the instruction: both, yes_no or no_yes")]
JsonOpt = Annotated[bool, typer.Option("--json", help="print JSON instead of tables")]
SeedOpt = Annotated[int, typer.Option(min=0, help="seed of sampling and of the bootstrap")]
DeviceOpt = Annotated[str | None, typer.Option(help="such as cpu or cuda:0; auto spreads over all devices")]
DtypeOpt = Annotated[str | None, typer.Option(help="float32, bfloat16, float16 or auto")]
LimitOpt = Annotated[int | None, typer.Option(min=1, help="use so many questions only, evenly from the groups")]
BatchOpt = Annotated[int | None, typer.Option(min=1, help="prompts in a forward pass; changes time and memory alone")]
OutOpt = Annotated[Path | None, typer.Option(help="write the result here, whole or not at all")]
InstructionOpt = Annotated[
    list[str] | None,
    typer.Option(help="your instruction; {first} and {second} are the candidates; given again, questions take turns"),
]
CandidatesOpt = Annotated[str | None, typer.Option(help="the answer candidates, the yes one first: True,False")]
KindOpt = Annotated[str, typer.Option("--prompt", help="auto, chat or plain")]
AllowSpecialOpt = Annotated[
    bool, typer.Option("--allow-special", help="read control tokens in questions (<|im_end|>) as such, not as text")
]


def check_out(out: Path | None, kind: str) -> None:
    """Before anything is loaded: refuses a place where a result of this kind can't be written."""
    from ..results import check_place, check_with_tensors

    if out is not None:
        (check_with_tensors if kind == "head_scores" else check_place)(out, kind)


def check_out_folder(out: Path | None, kinds: dict[str, str] | None = None) -> None:
    """Before anything is loaded: refuses a place that can't be a folder of ours, or where a file's name is taken.

    Args:
        out: the folder.
        kinds: what will be written into it: file names, and the kind of result in each.
    """
    from ..results import check_folder, check_place

    if out is None:
        return
    check_folder(out)
    for name, kind in (kinds or {}).items():
        check_place(out / name, kind)


def load(name: str, device: str | None, dtype: str | None) -> Any:
    from ..models import load_model

    return load_model(name, device=device, dtype=dtype)


def load_data(data: str, limit: int | None, seed: int) -> Any:
    # Before the model, so that a mistake in the data shows at once.
    from ..questions import load_questions

    return load_questions(data, limit, seed)


def load_heads(path: Path) -> Any:
    """The heads of a file, at least one."""
    from ..heads import HeadList

    chosen = HeadList.load(path)
    if not len(chosen):
        raise NasaInterpError(f"{path} lists no heads; write one with `nasa-interp heads`")
    return chosen


def one_of(value: str, known: tuple[str, ...], option: str) -> None:
    """Refuses what is none of the known words."""
    if value not in known:
        raise typer.BadParameter(f"{value!r} is none of {', '.join(known)}", param_hint=option)


def style_of(instruction: list[str] | None, candidates: str | None, kind: str, allow_special: bool) -> Any:
    from ..prompts import ORDERS, PromptStyle

    given: dict[str, Any] = {"kind": kind, "allow_special": allow_special}
    if instruction:
        given["instruction"] = tuple(instruction)
    if candidates is not None:
        yes, comma, no = candidates.partition(",")
        if not comma:
            raise typer.BadParameter(f"{candidates!r} is not two texts with a comma between", param_hint="--candidates")
        given |= {"yes": yes.strip(), "no": no.strip()}
    style = PromptStyle(**given)
    for order in ORDERS:
        style.render_instructions(order)
    return style


def intervention_of(name: str, positions: str | None) -> Any:
    from ..interventions import Knockout, Scale, Swap, Zero

    known: dict[str, Any] = {"zero": Zero, "knockout": Knockout, "swap": Swap}
    where: dict[str, Any] = {} if positions is None else {"positions": positions}
    if name in known:
        return known[name](**where)
    try:
        return Scale(float(name), **where)
    except ValueError:
        message = f"{name!r} is none of {', '.join(known)}, nor a factor"
        raise typer.BadParameter(message, param_hint="--do") from None
