"""Fuzzes the DICOM reader with mutated objects: `python -m benchmarks.fuzz --seconds 1800 --seed 1 --crashes DIR`.

A child process reads; this process watches. A crash is an exception that is no refusal, the death of the child, more
than 5 s of CPU time for one input, or a peak above 1 GiB. Input `n` depends on the seed, `n` and the seed objects
alone, so the watcher writes the input of a dead child to the folder. Prints executions, crashes and the peak memory.
"""

from __future__ import annotations

import argparse
import faulthandler
import multiprocessing
import os
import resource
import signal
import time
import traceback
import warnings
from collections.abc import MutableSequence
from pathlib import Path

from benchmarks.fuzz.mutate import mutated
from benchmarks.fuzz.target import read, seeds

SLOW_SECONDS, PEAK_BYTES = 5.0, 1 << 30


def peak_bytes() -> int:
    """Return the peak resident memory of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def work(state: MutableSequence[int], corpus: list[bytes], seed: int, end: float, crashes: Path) -> None:
    """Read inputs from `state[0]` on; state: the number of the input, inputs read, failures, peak bytes."""
    warnings.simplefilter("ignore")
    faulthandler.enable()
    faulthandler.register(signal.SIGPROF, chain=True)
    while time.time() < end:
        data = mutated(corpus, seed, state[0])
        signal.setitimer(signal.ITIMER_PROF, SLOW_SECONDS)  # its signal ends this process
        try:
            state[1] += read(data)
        except Exception:  # noqa: BLE001 - whatever gets through is the finding
            state[2] += 1
            (crashes / f"{seed}-{state[0]}.txt").write_text(traceback.format_exc())
            (crashes / f"{seed}-{state[0]}.dcm").write_bytes(data)
        signal.setitimer(signal.ITIMER_PROF, 0)
        state[0] += 1
        state[3] = max(state[3], peak_bytes())
        if peak_bytes() > PEAK_BYTES:
            os._exit(99)


def main() -> None:
    options = argparse.ArgumentParser(prog="python -m benchmarks.fuzz", description=__doc__)
    options.add_argument("--seconds", type=float, default=60)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--zoo", type=Path, help="a folder of further seed objects")
    options.add_argument("--crashes", type=Path, default=Path("runs/fuzz"), help="where a crash writes its input")
    asked = options.parse_args()
    asked.crashes.mkdir(parents=True, exist_ok=True)
    warnings.simplefilter("ignore")
    corpus, context = seeds(asked.zoo), multiprocessing.get_context("fork")
    print(f"{len(corpus)} seed objects, seed {asked.seed}, {asked.seconds:g} s", flush=True)
    state, start, deaths = context.Array("q", 4, lock=False), time.time(), 0
    while time.time() - start < asked.seconds:
        end = min(start + asked.seconds, time.time() + 300)  # a line every five minutes
        child = context.Process(target=work, args=(state, corpus, asked.seed, end, asked.crashes))
        child.start()
        child.join()
        if child.exitcode:
            deaths += 1
            name = f"{asked.seed}-{state[0]}-exit{child.exitcode}.dcm"
            (asked.crashes / name).write_bytes(mutated(corpus, asked.seed, state[0] - (child.exitcode == 99)))
            state[0] += child.exitcode != 99
        print(
            f"{time.time() - start:.0f} s: {state[0]} executions, {state[1]} read, {state[2] + deaths} crashes, "
            f"peak {state[3] >> 20} MiB",
            flush=True,
        )


if __name__ == "__main__":
    main()
