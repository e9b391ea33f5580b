"""Damaged associations against a running node: recorded from real ones, damaged, and played over a socket."""

from __future__ import annotations

import multiprocessing
import socket
import struct
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final

import numpy as np
from pydicom.dataset import Dataset
from pynetdicom import evt
from pynetdicom.presentation import build_context

from benchmarks.dicomfuzz_mutate import MOST_GROWTH_MB, ProcessFigures, Random, mutated, process_figures
from benchmarks.smallpatient import SmallPatient, write_small_patient
from cluster.node.network import (
    STORAGE_COMMITMENT,
    STORAGE_COMMITMENT_INSTANCE,
    STUDY_ROOT_FIND,
    STUDY_ROOT_MOVE,
    VERIFICATION,
    association,
    echo,
)
from cluster.service.config import Archive, ServiceConfig
from doseeng.dicom.files import read_file
from doseeng.errors import PeerError

HOST: Final = "127.0.0.1"
TIMEOUT_S: Final = 1.0
AT_ONCE: Final = 4
ECHO_EVERY: Final = 100
SETTLE_S: Final = 60.0
"""A thread of pynetdicom may wait 30 s for a peer that is gone (its ARTIM timer)."""
WARM_UP: Final = 0.2
SPARE_THREADS, SPARE_FILES = 2, 4


@dataclass(slots=True)
class NetworkFigures:
    """What became of damaged associations. answered: got any byte back. Pairs: after the warm-up and at the end."""

    count: int = 0
    answered: int = 0
    echoes: int = 0
    rss_mb: tuple[float, float] = (0.0, 0.0)
    threads: tuple[int, int] = (0, 0)
    files: tuple[int, int] = (0, 0)
    seconds: float = 0.0
    problems: list[str] = field(default_factory=list)


def serve(answer: Connection, folder: str) -> None:
    """A node in this process until the other end of `answer` is closed."""
    from cluster.node.server import Node
    from cluster.service.services import open_services

    site = {"name": "site", "calling_ae": ["FUZZ"]}
    dicom = {"port": 0, "timeout_s": TIMEOUT_S, "max_associations": 100}
    node = Node(open_services(ServiceConfig.model_validate({"data_dir": folder, "dicom": dicom, "site": [site]})))
    node.start()
    answer.send(node.port)
    try:
        answer.recv()
    except EOFError:
        node.stop()


def fuzz_associations(count: int, seed: int, folder: Path) -> NetworkFigures:
    """Play `count` damaged associations to a node."""
    figures = NetworkFigures()
    random = np.random.default_rng(seed)
    patient = write_small_patient(folder / "caller")
    start = time.monotonic()
    warm: ProcessFigures | None = None
    with _node(folder / "node") as (child, port):
        peer = Archive(name="node", host=HOST, port=port, ae_title="DOSEENG")
        scripts = recorded(peer, patient)
        with ThreadPoolExecutor(AT_ONCE) as players:
            while figures.count < count:
                batch = [damaged(random, scripts) for _ in range(min(ECHO_EVERY, count - figures.count))]
                figures.answered += sum(players.map(lambda parts: play(port, parts), batch))
                figures.count += len(batch)
                if not _echoes(peer, figures) or not child.is_alive():
                    figures.problems.append(f"the node no longer answers after {figures.count} associations")
                    return figures
                if warm is None and figures.count >= count * WARM_UP:
                    # Once: what is measured later must have all that is left behind after this.
                    _settle(child.pid)
                    warm = process_figures(child.pid)
        _settle(child.pid)
        end = process_figures(child.pid)
    figures.seconds = time.monotonic() - start
    if warm is not None:
        figures.rss_mb = (warm.rss_mb, end.rss_mb)
        figures.threads, figures.files = (warm.threads, end.threads), (warm.files, end.files)
        figures.problems += left_behind(warm, end)
    return figures


def left_behind(warm: ProcessFigures, end: ProcessFigures) -> list[str]:
    """What a process has more at its end than after its warm-up, beyond what comes and goes."""
    found = []
    if end.threads > warm.threads + SPARE_THREADS:
        found.append(f"the node is left with {end.threads} threads, after the warm-up it had {warm.threads}")
    if end.files > warm.files + SPARE_FILES:
        found.append(f"the node is left with {end.files} open files, after the warm-up it had {warm.files}")
    if end.rss_mb > warm.rss_mb + MOST_GROWTH_MB:
        found.append(f"memory grew from {warm.rss_mb:.1f} to {end.rss_mb:.1f} MB after the warm-up")
    return found


def recorded(peer: Archive, patient: SmallPatient) -> list[list[bytes]]:
    """What a caller sends in an association of each service: one list of PDUs each."""
    image, plan = read_file(patient.cbct_files[0]), read_file(patient.case / "rp.dcm")
    query = Dataset()
    query.QueryRetrieveLevel = "SERIES"
    query.StudyInstanceUID, query.SeriesDescription, query.PatientName = image.StudyInstanceUID, "CBCT*", "*"
    commit = Dataset()
    commit.TransactionUID = "1.2.826.0.1.3680043.10.4711.8"
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = image.SOPClassUID, image.SOPInstanceUID
    commit.ReferencedSOPSequence = [item]
    classes = [image.SOPClassUID, plan.SOPClassUID]
    return [
        _recorded(peer, [VERIFICATION], lambda made: made.send_c_echo()),
        _recorded(peer, classes, lambda made: [made.send_c_store(image), made.send_c_store(plan)]),
        _recorded(peer, [STUDY_ROOT_FIND], lambda made: list(made.send_c_find(query, STUDY_ROOT_FIND))),
        _recorded(peer, [STUDY_ROOT_MOVE], lambda made: list(made.send_c_move(query, "NOBODY", STUDY_ROOT_MOVE))),
        _recorded(
            peer,
            [STORAGE_COMMITMENT],
            lambda made: made.send_n_action(commit, 1, STORAGE_COMMITMENT, STORAGE_COMMITMENT_INSTANCE),
        ),
    ]


def _recorded(peer: Archive, classes: list[Any], talk: Any) -> list[bytes]:
    parts: list[bytes] = []
    contexts = [build_context(uid) for uid in classes]
    handlers = [(evt.EVT_DATA_SENT, lambda event: parts.append(bytes(event.data)))]
    with association(peer, "FUZZ", contexts, 10.0, handlers) as made:
        talk(made)
    return parts


def damaged(random: Random, scripts: list[list[bytes]]) -> list[bytes]:
    """A recorded association with one to three of its messages damaged, dropped, doubled or out of order."""
    parts = list(scripts[int(random.integers(len(scripts)))])
    for _ in range(int(random.integers(1, 4))):
        place = int(random.integers(len(parts)))
        kind = int(random.integers(10))
        if kind == 0 and len(parts) > 1:
            del parts[place]
        elif kind == 1:
            parts.insert(place, parts[int(random.integers(len(parts)))])
        elif kind == 2:
            parts[place] = mutated(random, parts[place])
        else:
            parts[place] = _with_true_lengths(random, parts[place])
    return parts


def _with_true_lengths(random: Random, part: bytes) -> bytes:
    """A PDU whose inside is damaged while its lengths are right (PS3.8 section 9.3), so that the inside is read."""
    if len(part) > 12 and part[0] == 4:
        inside = mutated(random, part[12:])
        return part[:2] + struct.pack(">LL", len(inside) + 6, len(inside) + 2) + part[10:12] + inside
    inside = mutated(random, part[6:])
    return part[:2] + struct.pack(">L", len(inside)) + inside


def play(port: int, parts: list[bytes]) -> bool:
    """Send the first message, wait for the answer, send the rest; whether anything was answered."""
    with socket.create_connection((HOST, port), timeout=10.0) as connection:
        connection.settimeout(0.3)
        answered = False
        try:
            for part in (parts[0], b"".join(parts[1:])):
                connection.sendall(part)
                answered = bool(connection.recv(65536)) or answered
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(65536):
                answered = True
        except OSError:
            pass  # the node had enough, or has nothing to say
        return answered


@contextmanager
def _node(folder: Path) -> Iterator[tuple[Any, int]]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    child = context.Process(target=serve, args=(theirs, str(folder)))
    child.start()
    theirs.close()
    try:
        yield child, ours.recv()
    finally:
        ours.close()
        child.join(timeout=30.0)
        child.kill()
        child.join()


def _echoes(peer: Archive, figures: NetworkFigures) -> bool:
    """Whether the node answers an undamaged association; it may have all its places taken for a moment."""
    for _ in range(20):
        try:
            echo(peer, "FUZZ", 10.0)
        except PeerError:
            time.sleep(0.5)
        else:
            figures.echoes += 1
            return True
    return False


def _settle(pid: int) -> None:
    """Wait until associations that were left open have ended."""
    end = time.monotonic() + SETTLE_S
    threads = process_figures(pid).threads
    while time.monotonic() < end:
        time.sleep(2.5 * TIMEOUT_S)
        now = process_figures(pid).threads
        if now >= threads and now < 8:
            return
        threads = now
