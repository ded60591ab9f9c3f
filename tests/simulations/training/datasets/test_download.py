"""Downloading CIFAR-10 from a server on this machine: what arrives, and archives that are refused unread."""

import functools
import hashlib
import http.server
import io
import sys
import tarfile
import threading
import types

import pytest

from simulations.training.datasets import cifar, download, download_cifar10

FILES = {name: f"content of {name}".encode() for names in cifar.FILES.values() for name in names}
INSIDE = "cifar-10-batches-py"


def archive(files=FILES, extra=()):
    """Files in their folder, and other members, as a compressed tar file."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        folder = tarfile.TarInfo(INSIDE)
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
        for name, content in files.items():
            member = tarfile.TarInfo(f"{INSIDE}/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
        for member in extra:
            tar.addfile(member, io.BytesIO(bytes(member.size)))
    return buffer.getvalue()


@pytest.fixture
def published(monkeypatch):
    """These files as if they were CIFAR-10's; the function that makes an archive the published one."""
    for name, content in FILES.items():
        monkeypatch.setitem(cifar.MD5, name, hashlib.md5(content).hexdigest())

    def publish(content):
        monkeypatch.setattr(download, "SHA256", hashlib.sha256(content).hexdigest())
        return content

    return publish


@pytest.fixture
def offered(monkeypatch, tmp_path, published):
    """Let pooch find an archive, checked by its SHA-256, without a network."""

    def offer(content, known=True):
        def retrieve(url, known_hash, fname, path):
            if known_hash != f"sha256:{hashlib.sha256(content).hexdigest()}":
                raise ValueError("SHA256 hash of downloaded file does not match\n the known hash")
            target = f"{path}/{fname}"
            with open(target, "wb") as file:
                file.write(content)
            return target

        if known:
            published(content)
        monkeypatch.setitem(sys.modules, "pooch", types.SimpleNamespace(retrieve=retrieve))

    return offer


def names(folder):
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def test_the_six_files_arrive_and_are_not_downloaded_again(tmp_path, offered, monkeypatch):
    meta = tarfile.TarInfo(f"{INSIDE}/batches.meta")
    meta.size = 5
    offered(archive(extra=[meta]))
    folder = download_cifar10(tmp_path / "new" / "cifar")
    assert names(folder) == sorted(FILES)
    assert all((folder / name).read_bytes() == content for name, content in FILES.items())
    monkeypatch.setitem(sys.modules, "pooch", None)  # whose import fails
    assert download_cifar10(folder) == folder
    (folder / "test_batch").write_bytes(b"altered")
    with pytest.raises(ImportError, match=r"downloading needs pooch: pip install .bntheory\[train\]"):
        download_cifar10(folder)


def member(name, size=0, kind=tarfile.REGTYPE, link=""):
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname = size, kind, link
    return info


UNSAFE = {
    "an absolute path": member("/etc/cifar"),
    "a path upward": member(f"{INSIDE}/../../evil"),
    "another name": member(f"{INSIDE}/data_batch_6"),
    "a link": member(f"{INSIDE}/data_batch_1", kind=tarfile.SYMTYPE, link="/etc/passwd"),
    "a device": member(f"{INSIDE}/readme.html", kind=tarfile.CHRTYPE),
    "a large file": member(f"{INSIDE}/readme.html", 2**25 + 1),
}


@pytest.mark.parametrize("case", UNSAFE)
def test_archives_that_hold_something_else_are_refused(case, tmp_path, offered):
    offered(archive(extra=[UNSAFE[case]]))
    with pytest.raises(ValueError, match=r"^the archive holds '") as caught:
        download_cifar10(tmp_path / "cifar")
    assert UNSAFE[case].name in str(caught.value) and names(tmp_path / "cifar") == []
    assert names(tmp_path) == ["cifar"]


def test_archives_that_are_damaged_or_lack_a_file(tmp_path, offered):
    whole = archive()
    for content, message in {
        whole[: len(whole) // 2]: "the archive is damaged",
        b"no archive": "the archive is damaged",
        archive({**FILES, "data_batch_3": b"other"}): r"does not hold CIFAR-10's data_batch_3 \(MD5\)",
        archive({"test_batch": FILES["test_batch"]}): "does not hold CIFAR-10's data_batch_1, ",
    }.items():
        offered(content)
        with pytest.raises(ValueError, match=message):
            download_cifar10(tmp_path / "cifar")
        assert names(tmp_path / "cifar") == []


def test_another_archive_and_no_network_take_one_line(tmp_path, offered, monkeypatch):
    offered(archive(), known=False)
    with pytest.raises(ValueError, match=r"cannot download https.* hash .*without a network unpack") as caught:
        download_cifar10(tmp_path / "cifar")
    assert "\n" not in str(caught.value) and names(tmp_path / "cifar") == []

    def unreachable(*_, **__):
        raise ConnectionError("name resolution failed")

    monkeypatch.setitem(sys.modules, "pooch", types.SimpleNamespace(retrieve=unreachable))
    with pytest.raises(ValueError, match=r"\(name resolution failed\): without a network unpack"):
        download_cifar10(tmp_path / "cifar")
    (tmp_path / "file").write_text("x")
    with pytest.raises(ValueError, match="is a file: CIFAR-10 needs a folder"):
        download_cifar10(tmp_path / "file")


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Logs nothing."""

    def log_message(self, *_):
        """Nothing."""


def test_from_a_server_with_pooch_itself(tmp_path, published, monkeypatch):
    pytest.importorskip("pooch")
    served = tmp_path / "served"
    served.mkdir()
    (served / "cifar.tar.gz").write_bytes(published(archive()))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=served))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        address = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setattr(download, "URL", f"{address}/cifar.tar.gz")
        assert names(download_cifar10(tmp_path / "cifar")) == sorted(FILES)
        monkeypatch.setattr(download, "SHA256", "0" * 64)
        with pytest.raises(ValueError, match="cannot download http"):
            download_cifar10(tmp_path / "other")
        monkeypatch.setattr(download, "URL", f"{address}/missing.tar.gz")
        with pytest.raises(ValueError, match=r"cannot download http.*404"):
            download_cifar10(tmp_path / "other")
        assert names(tmp_path / "other") == []
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
