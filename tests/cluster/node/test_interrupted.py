"""What is cut off leaves nothing behind, and what is sent again is complete and counts once."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import pytest
from pydicom import dcmread
from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.dimse_messages import C_STORE_RQ
from pynetdicom.dimse_primitives import C_STORE

HOST = "127.0.0.1"

NODE = """
import json, sys, threading
from pathlib import Path
from cluster.node.server import Node
from cluster.node.watcher import SeriesWatcher
from cluster.service.config import ServiceConfig
from cluster.service.services import open_services

services = open_services(ServiceConfig.model_validate(json.loads(sys.argv[1])))
node = Node(services)
node.start()
print(node.port, flush=True)
SeriesWatcher(services).run(threading.Event())
"""


def temporary() -> set[str]:
    return {name for name in os.listdir("/tmp") if name.startswith(("doseeng-", "tmp"))}


@pytest.fixture
def half_sent() -> Callable[[int, Path], Association]:
    """`half_sent(port, file)`: an association over which half of an object of the size of a slice was sent."""

    def start(port: int, file: Path) -> Association:
        ae = AE("LINAC")
        dataset = dcmread(file)
        ae.add_requested_context(dataset.SOPClassUID, dataset.file_meta.TransferSyntaxUID)
        association = ae.associate(HOST, port, ae_title="DOSEENG")
        assert association.is_established
        request = C_STORE()
        request.MessageID, request.Priority = 1, 2
        request.AffectedSOPClassUID, request.AffectedSOPInstanceUID = dataset.SOPClassUID, dataset.SOPInstanceUID
        request.DataSet = BytesIO(b"\0" * 100_000)
        message = C_STORE_RQ()
        message.primitive_to_message(request)
        parts = list(message.encode_msg(association.accepted_contexts[0].context_id, 4096))
        for part in parts[: len(parts) // 2]:
            association.dul.send_pdu(part)
        time.sleep(0.3)
        return association

    return start


def test_an_object_cut_in_the_middle_leaves_nothing(services, node, patient, half_sent, dcmtk, wait_until) -> None:
    before = temporary()
    association = half_sent(node.port, patient.cbct_files[0])
    association.dul.socket.socket.shutdown(socket.SHUT_RDWR)
    wait_until(lambda: not node.open_associations, "the node has noticed")
    assert services.library.instances("north") == []
    assert list(services.blobs_of("north")) == []
    assert temporary() <= before
    done = dcmtk("storescu", "-aet", "LINAC", "-aec", "DOSEENG", HOST, node.port, *patient.cbct_files)
    assert done.returncode == 0, done.stderr
    assert len(services.library.instances("north")) == len(patient.cbct_files)


def test_a_node_killed_in_the_middle_of_a_series(
    make_services, patient, half_sent, dcmtk, wait_until, tmp_path: Path
) -> None:
    rule = {"name": "cone-beam", "description": "cbct", "quiet_s": 1.0}
    services = make_services(site=[{"name": "north", "calling_ae": ["LINAC"], "rule": [rule]}])
    for file in patient.case_files:
        services.library.receive("north", file)
    services.courses.treat("north", patient.plan_uid, {}, "test")
    config = services.config.model_dump_json(exclude={"database_url"})
    send = ("storescu", "-aet", "LINAC", "-aec", "DOSEENG", HOST)
    with _node(config) as (child, port):
        assert dcmtk(*send, port, *patient.cbct_files[:5]).returncode == 0
        half_sent(port, patient.cbct_files[5])
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
    kept = services.library.instances("north", series_uid=patient.cbct_uid)
    assert len(kept) == 5
    with _node(config) as (_, port):
        # The sender begins again from the start, as it does not know how far it came.
        assert dcmtk(*send, port, *patient.cbct_files).returncode == 0
        wait_until(lambda: services.store.search("north"), "the series starts a job")
        time.sleep(1.5)
    (job,) = services.store.search("north")
    assert len(job.spec.image) == len(patient.cbct_files)


@contextmanager
def _node(config: str) -> Iterator[tuple[subprocess.Popen, int]]:
    """A node and its watcher in a process of their own, and its port."""
    with subprocess.Popen([sys.executable, "-c", NODE, config], stdout=subprocess.PIPE, text=True) as child:
        try:
            yield child, int(child.stdout.readline())
        finally:
            child.kill()
