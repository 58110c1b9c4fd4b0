"""Weights & Biases, when it is wanted; a run directory alone is enough without it.

| mode | what happens |
|---|---|
| auto | what WANDB_MODE says; else online when logged in (an API key is known), else offline |
| online | uploads; when no connection can be made, offline with a remark |
| offline | everything goes under ``RUN/wandb``; ``wandb sync`` uploads it later |
| disabled | nothing; wandb is not even imported |

Tracking never ends a run: after the first error it says so once and stays silent. It never asks
for a login, never waits longer than `CONNECT` seconds for the network (at the end `UPLOAD`), and
writes nothing outside the run directory but wandb's own cache. The key itself is left to wandb.
"""

from __future__ import annotations

import contextlib
import netrc
import os
import re
import urllib.parse
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

__all__ = ["Tracker", "logged_in", "start_tracking", "tracking_mode"]

PROJECT = "sdeflow"
ID = re.compile(r"[A-Za-z0-9_-]{1,128}")  # wandb makes file names of it
CONNECT, UPLOAD = 10.0, 60.0  # seconds to connect, and to finish uploading at the end
HOSTS = ("api.wandb.ai", "api.forge.coreweave.com")  # wandb's own servers, old and new


def logged_in() -> bool:
    """Whether wandb would find an API key, without asking it or the network."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    server = os.environ.get("WANDB_BASE_URL")
    hosts = (urllib.parse.urlsplit(server).netloc,) if server else HOSTS
    names = (".netrc", "_netrc")
    given = os.environ.get("NETRC")
    files = [Path(given)] if given else [Path.home() / name for name in names]
    for file in files:
        try:
            entries = netrc.netrc(file)
        except (OSError, netrc.NetrcParseError):
            continue
        if any(entries.authenticators(host) for host in hosts):
            return True
    return False


def tracking_mode(mode: str) -> str:
    """`mode` with "auto" replaced by what it means here: online, offline or disabled."""
    if mode != "auto":
        return mode
    asked = os.environ.get("WANDB_MODE", "").lower()
    asked = {"dryrun": "offline", "run": "online"}.get(asked, asked)
    if os.environ.get("WANDB_DISABLED", "").lower() in ("true", "1", "yes"):
        return "disabled"
    if asked in ("online", "offline", "disabled"):
        return asked
    return "online" if logged_in() else "offline"


class Tracker:
    """What a run tells wandb; with `run` None, nothing.

    Args:
        run: wandb's run, or None.
        warn: told once when tracking fails.

    Attributes:
        id: the run's id, to be given again on resuming; None without a run.
        mode: online, offline or disabled.
        directory: where wandb writes, or None.
    """

    def __init__(
        self, run: Any = None, mode: str = "disabled", warn: Callable[[str], None] | None = None
    ) -> None:
        self._run, self.mode, self._warn = run, mode, warn
        self.id: str | None = None if run is None else run.id
        self.directory = None if run is None else Path(run.dir).parent

    def _try(self, action: Callable[[Any], Any]) -> None:
        if self._run is None:
            return
        try:
            action(self._run)
        except Exception as error:  # whatever wandb raises, training goes on
            self._run = None
            if self._warn:
                self._warn(f"wandb stopped: {_line(error)}; the run goes on without it")

    def log(self, metrics: Mapping[str, Any], step: int) -> None:
        """Numbers at a step; nested names are joined with "/" by the caller."""
        self._try(lambda run: run.log(dict(metrics), step=step))

    def image(self, name: str, path: Path, step: int, caption: str = "") -> None:
        """A picture from a file."""

        def send(run: Any) -> None:
            import wandb

            run.log({name: wandb.Image(str(path), caption=caption or None)}, step=step)

        self._try(send)

    def checkpoint(self, path: Path, aliases: tuple[str, ...]) -> None:
        """A checkpoint directory as a version of the run's model artifact."""

        def send(run: Any) -> None:
            import wandb

            artifact = wandb.Artifact(f"checkpoint-{run.id}", type="model")
            with _staging_in(self.directory):
                for file in sorted(path.iterdir()):
                    artifact.add_file(str(file))
                run.log_artifact(artifact, aliases=list(aliases))

        self._try(send)

    def finish(self, failed: bool = False) -> None:
        """Close the run; what could not be uploaded in time stays under its directory."""
        self._try(lambda run: run.finish(exit_code=int(failed)))
        self._run = None


@contextlib.contextmanager
def _staging_in(directory: Path | None) -> Iterator[None]:
    """Let wandb keep its copies of artifacts in the run directory, not in the user's home."""
    name = "WANDB_DATA_DIR"
    if name in os.environ or directory is None:
        yield
        return
    os.environ[name] = str(directory)
    try:
        yield
    finally:
        del os.environ[name]


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _settings(wandb: Any) -> Any:
    """Quiet, bounded, confined to the run directory; an older wandb gets the names it knows."""
    wanted = {
        "silent": True,
        "console": "off",
        "init_timeout": CONNECT,
        "login_timeout": CONNECT,
        "finish_timeout": UPLOAD,
        "disable_git": True,
        "disable_code": True,
        "save_code": False,
        "x_disable_stats": True,
        "x_transaction_log_flush_interval": 2.0,  # seconds of metrics that a power cut may cost
        "x_save_requirements": False,
    }
    known = wandb.Settings()
    return wandb.Settings(**{n: value for n, value in wanted.items() if hasattr(known, n)})


def start_tracking(
    mode: str,
    directory: Path,
    name: str,
    config: Mapping[str, Any],
    run_id: str | None = None,
    say: Callable[[str], None] | None = None,
) -> Tracker:
    """Begin, or go on with, a wandb run.

    Args:
        mode: auto, online, offline or disabled.
        directory: the run directory; wandb writes to ``directory/wandb``.
        name: shown by wandb.
        config: plain values.
        run_id: the id of the run to go on with, or None for a new one.
        say: told, in a line, where the record goes and why.
    """
    say = say or (lambda _: None)
    mode = tracking_mode(mode)
    if mode == "disabled":
        return Tracker()
    if run_id is not None and not ID.fullmatch(str(run_id)):
        say("the run's wandb id is damaged; a new one is taken")
        run_id = None
    try:
        import wandb
    except ImportError as error:
        say(f"wandb cannot be imported ({_line(error)}); the run goes on without it")
        return Tracker()
    run: Any = None
    attempt: Any
    for attempt in (mode, "offline") if mode == "online" else (mode,):
        try:
            wandb.setup(settings=_settings(wandb))
            run = wandb.init(
                project=os.environ.get("WANDB_PROJECT", PROJECT),
                name=name,
                id=run_id,
                resume="allow" if run_id else None,
                mode=attempt,
                dir=str(directory),
                config=dict(config),
                settings=_settings(wandb),
                reinit="finish_previous",
            )
            mode = attempt
            break
        except Exception as error:  # no network, no account, no permission: the run matters more
            say(f"wandb {attempt} failed: {_line(error)}")
            wandb.teardown()
    tracker = Tracker(run, mode if run else "disabled", say)
    if run is not None and mode == "offline":
        say(f"wandb is offline; to upload: wandb sync {directory / 'wandb' / 'offline-run-*'}")
    elif run is not None:
        say(f"wandb: {run.url}")
    return tracker
