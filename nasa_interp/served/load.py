"""A served model from its address."""

from pathlib import Path
from urllib.parse import urlsplit

from ..errors import ServerError, warn_user
from .connection import is_loopback
from .model import ServedModel


def is_address(name: object) -> bool:
    """Whether a model's name is the address of a server."""
    return isinstance(name, str) and name.lower().startswith(("http://", "https://"))


def load_server(
    url: str,
    model: str | None = None,
    *,
    top: int = 20,
    timeout: float = 120.0,
    retries: int = 3,
    wait: float = 1.0,
    folder: str | Path | None = None,
    key_from: str = "NASA_INTERP_API_KEY",
) -> ServedModel:
    """A model that an OpenAI-compatible server runs, for `decide`, `calibrate` and `decide_by_generation`.

    Args:
        url: of the server, with its version: "http://127.0.0.1:8080/v1".
        model: its name there; not needed where the server has one model.
        top: how many of the likeliest tokens to ask for; ten times as many where a candidate isn't among them, as often
            as the server gives more. Servers limit it, to 20 often and to 5 sometimes.
        timeout: seconds that one request may take.
        retries, wait: how often, and after how many seconds at first, a request is tried again.
        folder: keeps every answer, so that an interrupted run goes on; delete it when another model is served under
            this name.
        key_from: the environment variable that holds the key, if the server wants one.

    Returns:
        The model. Nothing inside it can be looked at: scores, interventions and tuning take a model that is loaded.

    Raises:
        ServerError: no such address, an address with a key in it, or a server that can't be reached.

    Source: ours.
    """
    address = url.strip().rstrip("/")
    parts = urlsplit(address) if is_address(address) else None
    if parts is None or not parts.hostname:
        raise ServerError(f"{url!r} is no address of a server; give one such as http://127.0.0.1:8080/v1")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ServerError(
            f"the address of {parts.hostname} holds more than a place; leave user, password and what follows a '?' or "
            f"'#' out, and put a key into the environment variable {key_from}"
        )
    for name, value, least in (("top", top, 1), ("timeout", timeout, 0), ("retries", retries, 0), ("wait", wait, 0)):
        if not value >= least or (name == "timeout" and not value > 0):
            raise ServerError(f"{name} is {value} for {address}; give a number from {least} on, and a timeout above 0")
    place = None if folder is None else Path(folder)
    served = ServedModel(address, model or "", top, timeout, retries, wait, place, key_from)
    with served.connect() as connection:
        unsafe = connection.sends_key and parts.scheme == "http" and not is_loopback(address)
    if unsafe:
        warn_user(f"the key of {key_from} goes to {parts.hostname} unencrypted; take https if the server has it")
    return served if model else _only_model(served)


def _only_model(served: ServedModel) -> ServedModel:
    """The same with the name of the one model that the server lists."""
    with served.connect() as connection:
        content = connection.ask("models")
    listed = content.get("data") if isinstance(content, dict) else None
    names = [row.get("id") for row in listed if isinstance(row, dict)] if isinstance(listed, list) else []
    names = [name for name in names if isinstance(name, str) and name]
    if len(names) != 1:
        shown = f": {', '.join(names[:8])}" if names else ""
        raise ServerError(f"{served.url} lists {len(names)} models{shown}; name the one to ask (model=, --model)")
    return ServedModel(**{**vars(served), "model": names[0]})
