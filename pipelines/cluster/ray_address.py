"""Whether this process can join the Ray cluster at an address: answered in seconds, with the reason if it cannot.

Ray's own client waits for minutes where nobody answers, and in its compiled part, where nothing interrupts it.
"""

import os
import queue
import socket
import threading
from collections.abc import Callable
from urllib.parse import urlsplit

import grpc
import ray
from ray._private import services
from ray._private.gcs_utils import create_gcs_channel
from ray.core.generated import gcs_service_pb2, gcs_service_pb2_grpc
from ray.exceptions import RayError

from animatediff.errors import UserError

VARIABLE = "RAY_ADDRESS"
_DEFAULT_PORT = 6379
_CONNECT_S, _ANSWER_S = 4.0, 8.0
# Name servers that do not answer hold `getaddrinfo` for longer than the two above.
_TOTAL_S = 13.0
_TOKEN = "its token in RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH, with RAY_AUTH_MODE=token"


def cluster_address() -> str | None:
    """Return the address of the running cluster that `RAY_ADDRESS` names; None where it names none.

    Raises:
        UserError: it is no address of a cluster, or this process cannot join the cluster there.
    """
    given = os.environ.get(VARIABLE, "").strip()
    if given in ("", "local"):
        return None
    address = _running_here() if given == "auto" else given
    try:
        host, port = _host_and_port(address)
        _within(_TOTAL_S, lambda: _check(host, port))
    except _RefusedError as refusal:
        raise UserError(f"{VARIABLE}={given}: {refusal}") from refusal.__cause__
    return _joined(host, port)


class _RefusedError(Exception):
    """Why an address cannot be joined, and what to do."""


def _running_here() -> str:
    try:
        return str(services.canonicalize_bootstrap_address("auto"))
    except ConnectionError as error:
        raise UserError(f"{VARIABLE}=auto: no Ray cluster runs on this machine; unset it to start one") from error


def _host_and_port(address: str) -> tuple[str, int]:
    scheme, has_scheme, rest = address.partition("://")
    if has_scheme:
        name = rest.partition("/")[0]
        raise _RefusedError(_instead_of(scheme, address, name.rpartition(":")[0] or name))
    try:
        parts = urlsplit(f"//{address}")
        host, port = parts.hostname or "", parts.port
    except ValueError as error:
        raise _RefusedError(f"is no host:port ({error})") from error
    if not host or parts.netloc != address or "@" in address:
        raise _RefusedError("is no host:port")
    if port is None or not port or (":" in host and "[" not in address):
        example = _joined(host.rstrip(":"), _DEFAULT_PORT)
        raise _RefusedError(f"has no port: write host:port, as {example} ({_DEFAULT_PORT} is Ray's default)")
    return host, port


def _instead_of(scheme: str, address: str, host: str) -> str:
    direct = f"{VARIABLE}={host}:{_DEFAULT_PORT} on a machine of the cluster"
    if scheme in ("http", "https"):
        return (
            f"that is the job server's address, which takes `ray job submit --address {address} -- python ...`; a job "
            f"itself joins a cluster by {direct}"
        )
    if scheme == "ray":
        return (
            "Ray Client is not supported, as training and ingest need a driver inside the cluster: use `ray job "
            f"submit`, or {direct}"
        )
    return f"{scheme}:// is no address of a cluster: use {direct}"


def _joined(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _check(host: str, port: int) -> None:
    _check_listens(host, port)
    _check_is_ray(_joined(host, port))


def _check_listens(host: str, port: int) -> None:
    try:
        socket.create_connection((host, port), timeout=_CONNECT_S).close()
    except socket.gaierror as error:
        raise _RefusedError(f"there is no machine of the name {host} ({error.strerror})") from error
    except ConnectionRefusedError as error:
        raise _RefusedError(
            f"nobody listens there: start the cluster, mend the address, or unset {VARIABLE}"
        ) from error
    except OSError as error:
        reason = error.strerror or str(error)
        raise _RefusedError(
            f"it does not answer ({reason}): mend the address or the network, or unset {VARIABLE}"
        ) from error


def _check_is_ray(address: str) -> None:
    try:
        nodes = _ask(address)
    except grpc.RpcError as error:
        code = error.code()
        if code in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED):
            raise _RefusedError(f"the cluster refuses this process: give it {_TOKEN}") from error
        raise _RefusedError(f"what listens there does not answer as a Ray cluster does ({code.name})") from error
    except RayError as error:
        raise _RefusedError(f"this process has no token for the cluster: give it {_TOKEN}") from error
    # Objects pass through shared memory, so that a driver needs a node beside it; Ray would look for one for a minute.
    if not nodes & set(services.find_node_ids()):
        raise _RefusedError(
            "the cluster has no node on this machine: use `ray job submit`, or first "
            f"`ray start --address {address}` here"
        )


def _ask(address: str) -> set[str]:
    """Return the ids of the cluster's nodes."""
    channel = create_gcs_channel(address)
    try:
        stub = gcs_service_pb2_grpc.NodeInfoGcsServiceStub(channel)
        alive = stub.CheckAlive(gcs_service_pb2.CheckAliveRequest(), timeout=_ANSWER_S)
        if alive.ray_version != ray.__version__:
            raise _RefusedError(
                f"the cluster runs Ray {alive.ray_version} and this process Ray {ray.__version__}: they must be the "
                "same, so install the cluster's, or use `ray job submit`"
            )
        nodes = stub.GetAllNodeInfo(gcs_service_pb2.GetAllNodeInfoRequest(), timeout=_ANSWER_S)
        return {node.node_id.hex() for node in nodes.node_info_list}
    finally:
        channel.close()


def _within(seconds: float, check: Callable[[], None]) -> None:
    """Call `check`, and refuse where it takes longer."""
    outcome: queue.Queue[Exception | None] = queue.Queue()

    def run() -> None:
        try:
            check()
            outcome.put(None)
        except Exception as error:
            outcome.put(error)

    threading.Thread(target=run, daemon=True).start()
    try:
        found = outcome.get(timeout=seconds)
    except queue.Empty as error:
        raise _RefusedError(f"no answer within {seconds:.0f} s: mend the address or the network") from error
    if found is not None:
        raise found
