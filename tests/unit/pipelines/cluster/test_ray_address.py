"""`RAY_ADDRESS`: every form of it and everything that may listen there is answered by one line, in seconds."""

import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import grpc
import pytest
import ray
from ray.core.generated import gcs_service_pb2, gcs_service_pb2_grpc

from animatediff.errors import UserError
from pipelines.cluster import ray_address
from pipelines.cluster.ray_address import cluster_address


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch):
    monkeypatch.setattr(ray_address, "_ANSWER_S", 0.5)


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def refusal(monkeypatch, address):
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(UserError) as caught:
        cluster_address()
    text = str(caught.value)
    assert text.startswith(f"RAY_ADDRESS={address}: ")
    assert "\n" not in text
    return text


@pytest.mark.parametrize("value", [None, "", " ", "local"])
def test_no_address_means_a_ray_of_its_own(monkeypatch, value):
    if value is None:
        monkeypatch.delenv("RAY_ADDRESS", raising=False)
    else:
        monkeypatch.setenv("RAY_ADDRESS", value)
    assert cluster_address() is None


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("http://127.0.0.1:8265", "`ray job submit --address http://127.0.0.1:8265 -- python ...`"),
        ("https://head.example/ray", "RAY_ADDRESS=head.example:6379"),
        ("http://[::1]:8265", "RAY_ADDRESS=[::1]:6379"),
        ("ray://127.0.0.1:10001", "Ray Client is not supported"),
        ("redis://127.0.0.1:6379", "redis:// is no address of a cluster"),
        ("127.0.0.1", "has no port: write host:port, as 127.0.0.1:6379"),
        ("localhost:", "has no port"),
        ("::1", "is no host:port"),
        (":6379", "is no host:port"),
        ("127.0.0.1:ray", "is no host:port"),
        ("127.0.0.1:99999", "is no host:port"),
        ("me@127.0.0.1:6379", "is no host:port"),
        ("127.0.0.1:6379/", "is no host:port"),
        ("no-such-host.invalid:6379", "there is no machine of the name no-such-host.invalid"),
    ],
)
def test_what_is_no_address_says_what_is(monkeypatch, address, said):
    assert said in refusal(monkeypatch, address)


def test_a_port_where_nobody_listens(monkeypatch):
    assert "nobody listens there" in refusal(monkeypatch, f"127.0.0.1:{free_port()}")


def test_auto_needs_a_cluster_on_this_machine(monkeypatch):
    def none_found(address):
        raise ConnectionError("Could not find any running Ray instance.")

    monkeypatch.setattr(ray_address.services, "canonicalize_bootstrap_address", none_found)
    assert "no Ray cluster runs on this machine" in refusal(monkeypatch, "auto")
    # What an ended cluster has left behind names an address, too.
    monkeypatch.setattr(ray_address.services, "canonicalize_bootstrap_address", lambda _: f"127.0.0.1:{free_port()}")
    assert "nobody listens there" in refusal(monkeypatch, "auto")


def test_a_port_that_accepts_and_says_nothing(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        assert "does not answer as a Ray cluster does" in refusal(monkeypatch, address)


def test_a_web_server(monkeypatch):
    server = HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        assert "does not answer as a Ray cluster does" in refusal(monkeypatch, f"127.0.0.1:{server.server_port}")
    finally:
        server.shutdown()
        server.server_close()


def test_a_name_server_that_does_not_answer(monkeypatch):
    monkeypatch.setattr(ray_address, "_TOTAL_S", 0.2)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: time.sleep(1))
    assert "no answer within" in refusal(monkeypatch, "head.example:6379")


class _Gcs(gcs_service_pb2_grpc.NodeInfoGcsServiceServicer):
    def __init__(self, version=ray.__version__, status=None, nodes=()):
        self._version, self._status, self._nodes = version, status, nodes

    def CheckAlive(self, request, context):  # noqa: N802
        if self._status:
            context.abort(self._status, "no")
        return gcs_service_pb2.CheckAliveReply(ray_version=self._version)

    def GetAllNodeInfo(self, request, context):  # noqa: N802
        reply = gcs_service_pb2.GetAllNodeInfoReply()
        for node in self._nodes:
            reply.node_info_list.add().node_id = bytes.fromhex(node)
        return reply


@contextmanager
def served(gcs=None, host="127.0.0.1"):
    """The address of a gRPC server that answers as a cluster's head does; of another kind without `gcs`."""
    server = grpc.server(ThreadPoolExecutor(2))
    if gcs:
        gcs_service_pb2_grpc.add_NodeInfoGcsServiceServicer_to_server(gcs, server)
    port = server.add_insecure_port(f"{host}:0")
    server.start()
    try:
        yield f"{host}:{port}"
    finally:
        server.stop(0)


@pytest.mark.parametrize(
    ("gcs", "said"),
    [
        (None, "does not answer as a Ray cluster does (UNIMPLEMENTED)"),
        (_Gcs(version="1.13.0"), f"the cluster runs Ray 1.13.0 and this process Ray {ray.__version__}"),
        (_Gcs(status=grpc.StatusCode.UNAUTHENTICATED), "the cluster refuses this process: give it its token"),
        (_Gcs(status=grpc.StatusCode.PERMISSION_DENIED), "the cluster refuses this process: give it its token"),
        (_Gcs(nodes=["ab"]), "the cluster has no node on this machine: use `ray job submit`"),
    ],
)
def test_a_cluster_that_cannot_be_joined(monkeypatch, gcs, said):
    monkeypatch.setattr(ray_address.services, "find_node_ids", lambda: {"cd"})
    with served(gcs) as address:
        assert said in refusal(monkeypatch, address)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]"])
def test_a_cluster_with_a_node_here_is_joined(monkeypatch, host):
    monkeypatch.setattr(ray_address.services, "find_node_ids", lambda: {"ab"})
    with served(_Gcs(nodes=["ab", "ef"]), host) as address:
        monkeypatch.setenv("RAY_ADDRESS", f" {address} ")
        assert cluster_address() == address
