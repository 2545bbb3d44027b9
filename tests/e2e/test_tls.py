"""Does the gateway speak TLS with a certificate from files, and only to those who trust it?"""

from __future__ import annotations

import asyncio
import datetime as dt
import ipaddress
import ssl
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import requests
import tritonclient.grpc
import tritonclient.http.aio
from tritonclient.http import InferenceServerClient
from tritonclient.utils import InferenceServerException

from tests.e2e import talking_rpc
from tests.e2e.asking import ask, given, same
from tests.models import identity, place
from tests.running import Running, get

x509 = pytest.importorskip("cryptography.x509", reason="no means to make a certificate")
X = np.arange(8, dtype=np.float32).reshape(2, 4)


def _certificate(folder: Path, name: str = "gateway") -> tuple[Path, Path]:
    """Make a certificate for 127.0.0.1, signed by itself; return the files of it and of its key."""
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    who = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = dt.datetime.now(dt.UTC)
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    made = (
        x509.CertificateBuilder(who, who, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    certificate, secret = folder / f"{name}.pem", folder / f"{name}.key"
    certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    secret.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return certificate, secret


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return _certificate(tmp_path_factory.mktemp("certificate"))


@pytest.fixture(scope="module")
def running(certificate: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("tls")
    place(folder / "models", "echo", 1, identity("FP32", ["N", "M"]))
    server = {"tls_certificate": str(certificate[0]), "tls_key": str(certificate[1])}
    with Running(folder / "models", folder / "state", {"server": server}) as running:
        yield running


def _client(running: Running, trusted: Path) -> InferenceServerClient:
    return InferenceServerClient(running.http, ssl=True, ssl_options={"ca_certs": str(trusted)})


def test_tritonclient_asks_over_tls(running, certificate):
    with _client(running, certificate[0]) as client:
        assert client.is_server_ready() and client.is_model_ready("echo")
        for binary in (True, False):
            assert same(ask(client, "echo", {"x": X}, "y", binary=binary).as_numpy("y"), X)
        large = np.random.default_rng(0).standard_normal((2, 1 << 19)).astype(np.float32)
        assert same(ask(client, "echo", {"x": large}).as_numpy("y"), large)


def test_tritonclient_asks_over_grpc_and_tls(running, certificate):
    with tritonclient.grpc.InferenceServerClient(
        running.grpc, ssl=True, root_certificates=str(certificate[0])
    ) as client:
        assert client.is_server_ready()
        assert same(talking_rpc.ask(client, "echo", {"x": X}).as_numpy("y"), X)


def test_a_grpc_client_that_does_not_trust_the_certificate_or_speaks_plainly_gets_no_answer(running):
    for secured in (True, False):
        client = tritonclient.grpc.InferenceServerClient(running.grpc, ssl=secured)
        with closing(client), pytest.raises(InferenceServerException, match="UNAVAILABLE"):
            client.is_server_live(client_timeout=10)


def test_async_infer_and_aio_ask_over_tls(running, certificate):
    context = ssl.create_default_context(cafile=str(certificate[0]))
    with _client(running, certificate[0]) as client:
        pending = [client.async_infer("echo", given({"x": X + n})) for n in range(8)]
        assert all(same(each.get_result().as_numpy("y"), X + n) for n, each in enumerate(pending))

    async def talk() -> None:
        async with tritonclient.http.aio.InferenceServerClient(
            running.http, ssl=True, ssl_context=context
        ) as client:
            assert same((await client.infer("echo", given({"x": X}))).as_numpy("y"), X)

    asyncio.run(talk())


def test_a_client_that_does_not_trust_the_certificate_is_the_one_who_hangs_up(running, certificate, tmp_path):
    other, _ = _certificate(tmp_path, "somebody-else")
    with _client(running, other) as client, pytest.raises(ssl.SSLError, match="CERTIFICATE_VERIFY_FAILED"):
        client.is_server_ready()
    with pytest.raises(requests.exceptions.SSLError):
        requests.get(f"https://{running.http}/v2", timeout=10)
    assert (
        requests.get(f"https://{running.http}/v2", timeout=10, verify=str(certificate[0])).status_code == 200
    )


def test_plain_http_on_the_tls_port_gets_no_answer_and_harms_nobody(running, certificate):
    try:
        received = running.exchange(get("/v2/health/live"))
    except ConnectionResetError:
        received = b""
    assert b"HTTP/1.1 200" not in received
    with _client(running, certificate[0]) as client:
        assert client.is_server_live()


def test_nothing_older_than_tls_1_2_is_spoken(running, certificate):
    context = ssl.create_default_context(cafile=str(certificate[0]))
    with running.connect() as plain, context.wrap_socket(plain, server_hostname="127.0.0.1") as secured:
        assert secured.version() == "TLSv1.3"
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with running.connect() as plain, context.wrap_socket(plain, server_hostname="127.0.0.1") as secured:
        assert secured.version() == "TLSv1.2"
