"""Options of several commands, and how they become models, questions, styles and interventions."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from ..errors import NasaInterpError
from ..prompts.style import Orders

ModelArg = Annotated[str, typer.Argument(metavar="MODEL", help="demo, a hub id, a folder, or a .gguf file")]
AskedArg = Annotated[
    str, typer.Argument(metavar="MODEL", help="demo, a hub id, a folder, a .gguf file, or a server's http address")
]
DataOpt = Annotated[
    str,
    typer.Option(
        "--data",
        help="builtin:verify#test, strategyqa:PATH, gsm8k:PATH, math:PATH, musique:PATH, ar_lsat:PATH, hub:ID#SPLIT, "
        "or a .jsonl/.csv file",
    ),
]
OrderOpt = Annotated[Orders, typer.Option(help="candidate order in the instruction: both, yes_no or no_yes")]
JsonOpt = Annotated[bool, typer.Option("--json", help="print JSON instead of tables")]
SeedOpt = Annotated[int, typer.Option(min=0, help="seed of sampling and of the bootstrap")]
LimitOpt = Annotated[int | None, typer.Option(min=1, help="use so many questions only, evenly from the groups")]
BatchOpt = Annotated[int | None, typer.Option(min=1, help="prompts in a forward pass; changes time and memory alone")]
OutOpt = Annotated[Path | None, typer.Option(help="write the result here, whole or not at all")]
PartsOpt = Annotated[
    Path | None,
    typer.Option(
        help="a folder for parts that are kept as they finish: a file of any length is never read whole, a killed run "
        "goes on, and torchrun shares the work among processes"
    ),
]
UnlabeledOpt = Annotated[bool, typer.Option("--unlabeled", help="leave the labels out, if some rows have one")]
SkipBadOpt = Annotated[bool, typer.Option("--skip-bad", help="leave out rows that can't be read, and say how many")]
HeadsOpt = Annotated[
    Path, typer.Option("--heads", help="a head list: what `heads --out` wrote, CSV, .npy, PASTA JSON or JSON pairs")
]


@dataclass(frozen=True)
class PromptOptions:
    """How questions are asked, as given."""

    form: Annotated[
        str | None,
        typer.Option(
            help="yes-no, true-false, correct-incorrect, meaning, reversed, after, unsure, think, few-shot, plain, "
            "system, or a .toml file; the options below change it"
        ),
    ] = None
    instruction: Annotated[
        list[str] | None,
        typer.Option(
            help="your instruction; {first} and {second} are the candidates; given again, questions take turns"
        ),
    ] = None
    candidates: Annotated[str | None, typer.Option(help="the answer candidates, the yes one first: True,False")] = None
    kind: Annotated[Literal["auto", "chat", "plain"] | None, typer.Option("--prompt", help="auto, chat or plain")] = (
        None
    )
    allow_special: Annotated[
        bool, typer.Option("--allow-special", help="read control tokens in questions (<|im_end|>) as such, not as text")
    ] = False

    def style(self) -> Any:
        """The style of the prompts; an unusable instruction raises PromptError before any model is loaded."""
        from ..prompts import ORDERS, PromptStyle, load_form

        form = PromptStyle() if self.form is None else load_form(self.form)
        given: dict[str, Any] = {} if self.kind is None else {"kind": self.kind}
        if self.allow_special:
            given["allow_special"] = True
        if self.instruction:
            given["instruction"] = tuple(self.instruction)
        if self.candidates is not None:
            yes, comma, no = self.candidates.partition(",")
            if not comma:
                message = f"{self.candidates!r} is not two texts with a comma between"
                raise typer.BadParameter(message, param_hint="--candidates")
            given |= {"yes": yes.strip(), "no": no.strip()}
        style = replace(form, **given)
        for order in ORDERS:
            style.render_instructions(order)
        return style


@dataclass(frozen=True)
class ServerOptions:
    """How a served model is asked, where MODEL is an address; as given."""

    name: Annotated[
        str | None, typer.Option("--model", help="of an address: the model's name there, if it has several")
    ] = None
    top: Annotated[
        int | None,
        typer.Option(min=1, help="of an address: how many likeliest tokens to ask for; 20, and more at need"),
    ] = None
    timeout: Annotated[float | None, typer.Option(help="of an address: seconds that a request may take; 120")] = None
    retries: Annotated[int | None, typer.Option(min=0, help="of an address: how often a request is tried again; 3")] = (
        None
    )
    folder: Annotated[
        Path | None, typer.Option("--answers", help="of an address: folder that keeps answers, to go on from")
    ] = None
    key_from: Annotated[
        str | None,
        typer.Option(help="of an address: environment variable with the key; NASA_INTERP_API_KEY"),
    ] = None

    def load(self, name: str, placement: "ModelOptions") -> Any:
        """The model of this name: behind an address, or loaded."""
        from ..served import is_address, load_server

        options = {"top": self.top, "timeout": self.timeout, "retries": self.retries}
        options |= {"folder": self.folder, "key_from": self.key_from, "model": self.name}
        given: dict[str, Any] = {key: value for key, value in options.items() if value is not None}
        if is_address(name):
            check_alone()
            return load_server(name, **given)
        if given:
            raise typer.BadParameter("options of an address were given, and MODEL is none", param_hint=repr(name))
        return placement.load(name)


@dataclass(frozen=True)
class DeviceOptions:
    """Where a model runs, and in which dtype, as given."""

    device: Annotated[
        str | None, typer.Option(help="such as cpu or cuda:0; auto spreads over all devices, memory and the disk")
    ] = None
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16, float16, mixed or auto")] = None


@dataclass(frozen=True)
class ModelOptions(DeviceOptions):
    """Also where a model goes that no device has room for."""

    max_memory: Annotated[
        list[str] | None,
        typer.Option("--max-memory", help="cpu=20GiB or 0=70GiB: what auto puts there at most; again for each device"),
    ] = None
    offload_folder: Annotated[
        Path | None,
        typer.Option("--offload-folder", help="where auto writes weights that their own files don't hold as they are"),
    ] = None

    @property
    def arguments(self) -> dict[str, Any]:
        """What `load_model` takes besides the name."""
        limits = dict(map(_limit, self.max_memory)) if self.max_memory else None
        return {
            "device": self.device, "dtype": self.dtype, "max_memory": limits, "offload_folder": self.offload_folder,
        }  # fmt: skip

    def load(self, name: str, shared: bool = False) -> Any:
        """The model of this name; `shared` says that several processes share the command's work.

        Raises:
            NasaInterpError: where several processes were started, and they would all do the same.
        """
        from ..models import load_model

        if not shared:
            check_alone()
        return load_model(name, **self.arguments)


def _limit(text: str) -> tuple[str, str]:
    device, equals, size = text.partition("=")
    if not (device and equals and size):
        raise typer.BadParameter(f"{text!r} is not DEVICE=SIZE, such as cpu=20GiB", param_hint="--max-memory")
    return device.strip(), size.strip()


def check_out(out: Path | None, kind: str) -> None:
    """Before anything is loaded: refuses a path where a result of this kind can't be written."""
    from ..results import check_place, check_with_tensors

    if out is not None:
        (check_with_tensors if kind == "head_scores" else check_place)(out, kind)


def check_out_folder(out: Path | None, kinds: dict[str, str] | None = None) -> None:
    """Before anything is loaded: refuses a path that can't be a run folder, or where a file's name is taken.

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


def load_data(data: str, limit: int | None, seed: int, unlabeled: bool = False, skip_bad: bool = False) -> Any:
    # Before the model, so that a mistake in the data shows at once.
    from ..questions import load_questions

    return load_questions(data, limit, seed, unlabeled, skip_bad)


def check_alone() -> None:
    """Raises NasaInterpError where several processes were started, which would all do the same."""
    from ..streams import world_size

    if (size := world_size()) > 1:
        raise NasaInterpError(
            f"{size} processes would all do the same; start one, or let them share the questions: score, decide or "
            f"ablate with --parts FOLDER, matrix with --all"
        )


def open_stream(
    parts: Path, data: str, limit: int | None, seed: int, unlabeled: bool = False, skip_bad: bool = False
) -> Any:
    """The questions as a stream, checked before the model is loaded."""
    from ..questions import QuestionStream
    from ..results import check_folder

    check_folder(parts)
    return QuestionStream.open(data, limit=limit, seed=seed, unlabeled=unlabeled, skip_bad=skip_bad)


def load_heads(path: Path) -> Any:
    """The heads of a file, at least one."""
    from ..heads import HeadList

    chosen = HeadList.load(path)
    if not len(chosen):
        raise NasaInterpError(f"{path} lists no heads; write one with `nasa-interp heads`")
    return chosen


def intervention_of(name: str, positions: str | None) -> Any:
    """The intervention of this name, or the scaling by this factor."""
    from ..interventions import INTERVENTIONS, Scale

    where: dict[str, Any] = {} if positions is None else {"positions": positions}
    if name in INTERVENTIONS:
        try:
            return INTERVENTIONS[name](**where)
        except TypeError:
            message = f"{name!r} takes no positions; leave --positions out"
            raise typer.BadParameter(message, param_hint="--positions") from None
    try:
        return Scale(float(name), **where)
    except ValueError:
        message = f"{name!r} is none of {', '.join(INTERVENTIONS)}, nor a factor"
        raise typer.BadParameter(message, param_hint="--do") from None
