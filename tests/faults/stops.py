"""Runs that are stopped, by signals at any moment and at every file operation, then resumed."""

from __future__ import annotations

import builtins
import contextlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from faults.campaign import CRASH, LOST, SURVIVED, TRACEBACK, WRONG, Tally, run

QUICK = ("--hidden", "8", "--epochs", "4", "--save-every", "1")
SETTINGS = {
    "SGD": (*QUICK, "--optimizer", "sgd", "--rate", "0.5"),
    "Adam, dropout, L2": (
        *("--net", "dense8", "dropout0.3", "--epochs", "4", "--save-every", "1"),
        *("--optimizer", "adam", "--rate", "0.01", "--l2", "0.1"),
    ),
    "early stopping": (*QUICK, "--patience", "2", "--lower-rate-to", "0.1"),
    "schedule, monitors": (*QUICK, "--schedule", "cosine", "--monitors", "weight_norms"),
    "distortion": (*QUICK, "--distort.rotation", "10", "--batch-size", "50"),
    "feedback": (*QUICK, "--feedback", "kolen_pollack"),
    "convolution, checkpoints of two": (
        *("--net", "conv4k3", "pool2", "dense8", "--epochs", "4", "--save-every", "2"),
        *("--batch-size", "50"),
    ),
}
BEGUN = "the command begins"
"""What `command` writes to stderr when everything is imported."""
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def result(folder: Path) -> tuple[bytes, list[dict]]:
    """The parameters and the history of a finished run, without the times."""
    from safetensors.numpy import load_file

    arrays = load_file(folder / "params.safetensors")
    params = b"".join(name.encode() + arrays[name].tobytes() for name in sorted(arrays))
    lines = (folder / "history.jsonl").read_text(encoding="utf-8").splitlines()
    return params, [{k: v for k, v in json.loads(x).items() if k != "seconds"} for x in lines]


def command(*argv: str, **environment: str) -> subprocess.Popen:
    """Start a command in a process of its own, with more variables in its environment."""
    begin = f"print({BEGUN!r}, file=sys.stderr, flush=True)"
    program = f"import sys; from nnjax.cli import main; {begin}; sys.exit(main())"
    return subprocess.Popen(
        [sys.executable, "-c", program, *argv],
        env=os.environ | environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def wait(process: subprocess.Popen) -> tuple[int | None, str]:
    """Return status and stderr of a process; a status of None where it hangs."""
    try:
        _, err = process.communicate(timeout=300)
    except subprocess.TimeoutExpired:
        process.kill()
        return None, ""
    return process.returncode, err.decode(errors="replace")


def torn(err: str) -> bool:
    """Whether there is a traceback in what a command wrote once it had begun.

    Before that Python imports jax, and answers Ctrl-C in its own way: there is no command yet.
    """
    return "Traceback" in err.partition(BEGUN)[2]


def start_or_resume(folder: Path, setting: tuple[str, ...]) -> list[str]:
    if (folder / "config.json").is_file():
        return ["train", "--resume", str(folder)]
    return ["train", *setting, "--out", str(folder)]


def by_signals(stops: int, work: Path, seed: int = 0) -> Tally:
    """Stop runs at random moments, some of them several times, resume them and compare."""
    tally, rng = (
        Tally("stops by SIGKILL, SIGTERM, SIGINT, SIGHUP at random moments"),
        random.Random(seed),
    )
    whole: dict[str, tuple] = {}
    lengths: dict[str, float] = {}
    done = 0
    while done < stops:
        name = list(SETTINGS)[rng.randrange(len(SETTINGS))]
        if name not in whole:
            folder, start = work / f"whole-{len(whole)}", time.perf_counter()
            status, err = wait(command("train", *SETTINGS[name], "--out", str(folder)))
            assert status == 0, err
            whole[name], lengths[name] = result(folder), time.perf_counter() - start
        folder = work / f"stopped-{done}"
        sent = []
        for _ in range(min(rng.choice((1, 2, 4)), stops - done)):
            number = rng.choice(SIGNALS)
            process = command(*start_or_resume(folder, SETTINGS[name]))
            # From the start of Python to after the end: every moment may be met.
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=rng.uniform(0.05, 1.1) * lengths[name])
            process.send_signal(number)
            status, err = wait(process)
            sent.append(f"{signal.Signals(number).name} ({status})")
            what = f"{name}, {', '.join(sent)}: {err.strip()[-200:]}"
            outcome = CRASH if status is None else TRACEBACK if torn(err) else None
            if outcome:
                tally.add(outcome, what)
            done += 1
        status, err = wait(command(*start_or_resume(folder, SETTINGS[name])))
        what = f"{name}, {', '.join(sent)}, then resumed: {err.strip()[-200:]}"
        if status != 0:
            outcome = CRASH if status is None else LOST
        else:
            outcome = SURVIVED if result(folder) == whole[name] else WRONG
        for _ in sent:
            tally.add(outcome, what)
        shutil.rmtree(folder, ignore_errors=True)
    return tally


SWEEP = (
    *("--rate", "0.1", "0.5", "--l2", "0", "1", "--seeds", "2", "--hidden", "8", "--epochs", "6"),
    *("--batch-size", "20"),
)


def sweeps(stops: int, work: Path, seed: int = 0) -> Tally:
    """Kill sweeps at random moments, resume them and compare."""
    tally, rng = Tally("kills of a sweep at random moments"), random.Random(seed)

    def outcome(folder: Path) -> tuple:
        return *result(folder), json.loads((folder / "sweep.json").read_text("utf-8"))

    whole, start = work / "whole", time.perf_counter()
    status, err = wait(command("sweep", *SWEEP, "--out", str(whole)))
    assert status == 0, err
    expected, length = outcome(whole), time.perf_counter() - start
    for k in range(stops):
        folder = work / f"sweep-{k}"
        process = command("sweep", *SWEEP, "--out", str(folder))
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=rng.uniform(0.1, 1.0) * length)
        process.kill()
        wait(process)
        status, err = 0, ""
        if not (folder / "sweep.json").is_file():
            begun = (folder / "config.json").is_file()
            more = ("--resume",) if begun else (*SWEEP, "--out")
            status, err = wait(command("sweep", *more, str(folder)))
        if status != 0:
            tally.add(LOST, f"kill {k}: {err.strip()[-300:]}")
        else:
            tally.add(SURVIVED if outcome(folder) == expected else WRONG, f"kill {k}")
        shutil.rmtree(folder)
    return tally


TOGETHER = (*QUICK, "--batch-size", "21", "--optimizer", "adam")


def together(*argv: str) -> list[subprocess.Popen]:
    """Start a command in two processes of two devices, which compute together."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    flags = "--xla_force_host_platform_device_count=2"
    where = ("--distributed", "--coordinator", address, "--processes", "2", "--process")
    return [command(*argv, *where, number, XLA_FLAGS=flags) for number in ("0", "1")]


def processes(stops: int, work: Path, seed: int = 0) -> Tally:
    """Kill one of two processes that train together; the other ends too; resume and compare."""
    tally, rng = Tally("kills of one of two processes of a run"), random.Random(seed)
    whole, start = work / "whole", time.perf_counter()
    for status, err in map(wait, together("train", *TOGETHER, "--out", str(whole))):
        assert status == 0, err
    expected, length = result(whole), time.perf_counter() - start
    for k in range(stops):
        folder, killed = work / f"run-{k}", rng.randrange(2)
        both = together(*start_or_resume(folder, TOGETHER))
        with contextlib.suppress(subprocess.TimeoutExpired):
            both[killed].wait(timeout=rng.uniform(0.4, 1.0) * length)
        both[killed].kill()
        ends = [wait(process) for process in both]
        status, err = ends[1 - killed]
        said = err.partition(BEGUN)[2].strip()
        what = f"kill {k}, of process {killed}: {said[-300:]}"
        if status is None or (status != 0 and said.count("\n")):
            tally.add(CRASH if status is None else TRACEBACK, what)
        ends = [wait(process) for process in together(*start_or_resume(folder, TOGETHER))]
        if any(status != 0 for status, _ in ends):
            tally.add(LOST, f"{what}, then {ends[0][1].strip()[-300:]}")
        else:
            tally.add(SURVIVED if result(folder) == expected else WRONG, what)
        shutil.rmtree(folder)
    return tally


class Killed(BaseException):
    """Stands for a kill: from then on no file operation has any effect."""


class Operations:
    """Counts the file operations of a block, and kills it at one: before, after, or within it."""

    def __init__(self, at: int | None = None, how: str = "before"):
        self.at, self.how, self.count, self.dead = at, how, 0, False

    def reached(self, how: str) -> bool:
        if self.dead:
            raise Killed
        return self.at == self.count and self.how == how

    def operate(self, f, *args, **options):
        if self.reached("before"):
            self.dead = True
            raise Killed
        value = f(*args, **options)
        if self.reached("after"):
            self.dead = True
            raise Killed
        self.count += 1
        return value

    @contextlib.contextmanager
    def watched(self, folder: Path):
        """Watch every operation that changes something below a folder."""
        inside = str(folder)
        originals = {
            name: getattr(os, name) for name in ("replace", "unlink", "mkdir", "rmdir", "rename")
        }
        real_open, real_fsync = builtins.open, os.fsync

        def watch(f):
            def watched(path, *args, **options):
                if not os.path.abspath(path).startswith(inside):
                    return f(path, *args, **options)
                return self.operate(f, path, *args, **options)

            return watched

        def opened(path, mode="r", *args, **options):
            writes = isinstance(path, str | os.PathLike) and set(mode) & set("wax+")
            if not writes or not os.path.abspath(path).startswith(inside):
                return real_open(path, mode, *args, **options)
            return _File(self.operate(real_open, path, mode, *args, **options), self)

        try:
            for name, f in originals.items():
                setattr(os, name, watch(f))
            builtins.open, os.fsync = opened, lambda fd: self.operate(real_fsync, fd)
            yield self
        finally:
            for name, f in originals.items():
                setattr(os, name, f)
            builtins.open, os.fsync = real_open, real_fsync


class _File:
    """A file whose writes are operations: a kill within one leaves half of it."""

    def __init__(self, file, operations):
        self.file, self.operations = file, operations

    def write(self, content):
        if self.operations.reached("within"):
            self.file.write(content[: len(content) // 2])
            self.file.flush()
            self.operations.dead = True
            raise Killed
        return self.operations.operate(self.file.write, content)

    def __enter__(self):
        return self

    def __exit__(self, *args):
        self.file.close()

    def __iter__(self):
        return iter(self.file)

    def __getattr__(self, name):
        return getattr(self.file, name)


def at_every_operation(trials: int, work: Path, seed: int = 0) -> Tally:
    """Kill training at file operations, in this process, resume it and compare."""
    tally, rng = Tally("crash points in file operations"), random.Random(seed)
    points = []
    for name in ("SGD", "early stopping", "convolution, checkpoints of two"):
        folder = work / f"counted-{len(points)}"
        with Operations().watched(folder) as operations:
            status, _, err = run("train", *SETTINGS[name], "--out", str(folder))
        assert status == 0, err
        whole = result(folder)
        points += [
            (name, whole, k, how)
            for k in range(operations.count)
            for how in ("before", "after", "within")
        ]
    chosen = points if trials >= len(points) else rng.sample(points, trials)
    for name, whole, k, how in chosen:
        folder = work / "killed"
        with Operations(k, how).watched(folder) as operations, contextlib.suppress(Killed):
            run("train", *SETTINGS[name], "--out", str(folder))
        if not operations.dead:  # not a write: there is no "within"
            shutil.rmtree(folder)
            continue
        what = f"{name}: {how} operation {k}"
        status, _, err = run(*start_or_resume(folder, SETTINGS[name]))
        if status != 0:
            tally.add(LOST, f"{what}: {err.strip()[-300:]}")
        else:
            tally.add(SURVIVED if result(folder) == whole else WRONG, what)
        shutil.rmtree(folder)
    return tally


def flipped_bits(trials: int, work: Path, seed: int = 0) -> Tally:
    """Flip one bit of a file of a finished run, then continue, evaluate and plot it."""
    tally, rng = (
        Tally("one bit flipped in a checkpoint, parameters, configuration, history"),
        random.Random(seed),
    )
    whole, copy = work / "whole", work / "flipped"
    status, _, err = run("train", *SETTINGS["SGD"], "--out", str(whole))
    assert status == 0, err
    uses = {
        "checkpoint": ("train", "--resume"),
        "params.safetensors": ("evaluate",),
        "config.json": ("train", "--resume"),
        "history.jsonl": ("train", "--resume"),
    }
    shutil.copytree(whole, copy)
    for argv in uses.values():  # what each gives where nothing is wrong
        assert run(*argv, str(copy))[0] == 0
    expected, said = result(copy), run("evaluate", str(whole))[1].replace(str(whole), "")
    for trial in range(trials):
        shutil.rmtree(copy)
        shutil.copytree(whole, copy)
        kind = list(uses)[trial % len(uses)]
        path = sorted((copy / "checkpoints").iterdir())[-1] if kind == "checkpoint" else copy / kind
        content = bytearray(path.read_bytes())
        position, bit = rng.randrange(len(content)), rng.randrange(8)
        content[position] ^= 1 << bit
        path.write_bytes(content)
        what = f"{kind}, byte {position}, bit {bit}"
        try:
            status, out, err = run(*uses[kind], str(copy))
        except Exception as error:
            tally.add(TRACEBACK, f"{what}: {error!r}")
            continue
        lines = err.strip().splitlines()
        if status == 2 and len(lines) == 1:
            tally.add("one sentence", what)
        elif status:
            tally.add(TRACEBACK, f"{what}: {err[-300:]}")
        elif kind == "params.safetensors":
            same = out.replace(str(copy), "") == said
            tally.add(SURVIVED if same else WRONG, what)
        else:
            tally.add(SURVIVED if result(copy) == expected else WRONG, what)
    return tally
