"""Where a model's weights are put: on one device, or spread over several, the processor's memory and the disk."""

import re
import shutil
import tempfile
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..errors import ModelError

AUTO = "auto"
# What transformers spreads by itself.
SPREAD = (AUTO, "balanced", "balanced_low_0", "sequential")
_GPU = re.compile(r"(?:cuda:)?(\d+)")
DEVICES = "use cpu, cuda, cuda:0, mps or auto"

DeviceMap = str | Mapping[str, Any]


@dataclass(frozen=True)
class Placement:
    """Where a model goes; made by `Placement.of`, which checks it.

    Args:
        device: the one device, where there is no map.
        device_map: how transformers and accelerate spread the weights; None for one device.
        max_memory: bytes on each device, for a map that is found; None for what is free.
        offload_folder: where weights go that must be written to disk anew.
    """

    device: str
    device_map: str | dict[str, Any] | None = None
    max_memory: dict[int | str, int] | None = None
    offload_folder: Path | None = None

    @classmethod
    def of(
        cls,
        device: str | None = None,
        device_map: DeviceMap | None = None,
        max_memory: Mapping[Any, int | str] | None = None,
        offload_folder: str | Path | None = None,
    ) -> "Placement":
        """The placement that these options of `load_model` say.

        Raises:
            ModelError: an unknown device or size, or options that contradict each other.
        """
        limited = max_memory is not None or offload_folder is not None
        if device == AUTO or (device is None and device_map is None and limited):
            device, device_map = None, AUTO if device_map is None else device_map
        if device is not None and (device_map is not None or limited):
            given = "device_map" if device_map is not None else "max_memory" if max_memory else "offload_folder"
            raise ModelError(f"device {device!r} and {given} contradict each other; use device='auto', or leave it out")
        folder = None if offload_folder is None else Path(offload_folder).expanduser()
        if folder is not None and folder.exists() and not folder.is_dir():
            raise ModelError(f"the offload folder {folder} is a file; name a folder")
        if device_map is None:
            return cls(known_device(device))
        if isinstance(device_map, Mapping):
            if max_memory is not None:
                raise ModelError(
                    "a device map says where each part goes, and max_memory doesn't; leave one of them out"
                )
            if "" in device_map and len(device_map) > 1:
                raise ModelError("a device map with '' puts the whole model there; name each part in its place instead")
            return cls(AUTO, {part: _place(place) for part, place in device_map.items()}, None, folder)
        if device_map not in SPREAD:
            raise ModelError(f"device map {device_map!r} is unknown; use {', '.join(SPREAD)}, or a dict of parts")
        return cls(AUTO, device_map, _limits(max_memory), folder)

    @contextmanager
    def options(self) -> Iterator["_Options"]:
        """Inside, what `from_pretrained` takes; weights that it writes to disk are removed with the model.

        They lie in a folder of their own, as another model's may have the same names.
        """
        given = _Options()
        if self.device_map is None:
            yield given
            return
        given["device_map"] = self.device_map
        if self.max_memory is not None:
            given["max_memory"] = self.max_memory
        if self.offload_folder is not None:
            given["offload_folder"] = str(_own_folder(self.offload_folder))
        try:
            yield given
        except BaseException:
            given.discard()
            raise


class _Options(dict[str, Any]):
    """Arguments of `from_pretrained`."""

    def belong_to(self, model: Any) -> None:
        """What was written to disk goes when the model goes; an empty folder at once."""
        if (folder := self.get("offload_folder")) is None:
            return
        if any(Path(folder).iterdir()):
            weakref.finalize(model, shutil.rmtree, folder, ignore_errors=True)
        else:
            self.discard()

    def discard(self) -> None:
        """Removes what was written to disk."""
        if (folder := self.get("offload_folder")) is not None:
            shutil.rmtree(folder, ignore_errors=True)


def _own_folder(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix="weights-", dir=folder))
    except OSError as error:
        raise ModelError(
            f"weights can't be kept in {folder} ({error.strerror}); name another offload folder"
        ) from error


def known_device(device: str | None) -> str:
    """The device, by default CUDA where there is any; raises ModelError for one on which nothing can be computed."""
    if device is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        kind = torch.device(device).type
    except RuntimeError as error:
        raise ModelError(f"device {device!r} is unknown; {DEVICES}") from error
    if kind == "meta":
        raise ModelError(f"on the device 'meta' nothing is computed; {DEVICES}")
    if kind == "cuda" and not torch.cuda.is_available():
        raise ModelError(f"device {device!r}: this machine or this build of PyTorch has no CUDA; use cpu")
    return device


def _place(place: Any) -> int | str:
    """Where a part of a device map goes: a device, or the disk."""
    if place == "disk":
        return place
    if isinstance(place, int) and not isinstance(place, bool):
        known_device(f"cuda:{place}")
        return place
    return known_device(str(place))


def _limits(given: Mapping[Any, int | str] | None) -> dict[int | str, int] | None:
    """Bytes for each device: those given, and for devices that aren't named what is free there."""
    if given is None:
        return None
    from accelerate.utils import get_max_memory

    limits: dict[int | str, int] = dict(get_max_memory())
    for device, size in given.items():
        gpu = _GPU.fullmatch(str(device))
        key = int(gpu[1]) if gpu else str(device)
        if key not in limits:
            known = ", ".join(map(str, limits))
            raise ModelError(f"max_memory names the device {device!r}, which isn't here; the devices are {known}")
        limits[key] = _size(device, size)
    return limits


def _size(device: Any, size: int | str) -> int:
    from accelerate.utils import convert_file_size_to_int

    try:
        # In capitals, as accelerate takes "gb" for bits.
        number = convert_file_size_to_int(int(size) if str(size).isdigit() else str(size).upper())
    except (ValueError, TypeError, AttributeError):
        number = -1
    if number < 0:
        raise ModelError(f"max_memory of {device!r}: {size!r} is no size; write bytes, or 20GiB, 500MB")
    return number
