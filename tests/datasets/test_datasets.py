"""Public data sets, fetched from a server on this machine in the authors' formats."""

import bz2
import hashlib
import io
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from jtl.datasets import CATALOGUE, File, __main__, fetch


@pytest.fixture
def served():
    """`served[name] = bytes` is a file at `served.url/name`; `cut` is of names whose answer ends early."""

    class Served(dict):
        cut: set[str] = set()
        chunked: set[str] = set()

    files = Served()
    files.cut, files.chunked = set(), set()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        close_connection = True

        def do_GET(self):
            name = self.path.rsplit("/", 1)[1]
            if name not in files:
                return self.send_error(404)
            self.send_response(200)
            if name in files.chunked:  # ends within its first chunk
                self.send_header("Transfer-Encoding", "chunked")
                self.end_headers()
                self.wfile.write(b"ff\r\n" + files[name])
                return None
            self.send_header("Content-Length", str(len(files[name])))
            self.end_headers()
            self.wfile.write(files[name][: len(files[name]) // 2] if name in files.cut else files[name])
            return None

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    files.url = f"http://127.0.0.1:{server.server_address[1]}"
    yield files
    server.shutdown()
    server.server_close()


def entry(served, monkeypatch, name, contents):
    """The data set's files with these contents, on this machine."""
    known = CATALOGUE[name]
    files = []
    for file, content in zip(known.files, contents, strict=True):
        served[file.name] = content
        digest = f"md5:{hashlib.md5(content).hexdigest()}" if file.digest else None
        files.append(File(f"{served.url}/{file.name}", digest))
    monkeypatch.setitem(CATALOGUE, name, known._replace(files=tuple(files)))


def zipped(files):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return out.getvalue()


def test_usps_becomes_the_arrays_that_recipes_read(served, monkeypatch, tmp_path, real_data):
    known = np.load(real_data("usps.npz"))
    contents = []
    for split in ("train", "test"):
        rows = []
        for x, y in zip(known[f"x_{split}"][:20], known[f"y_{split}"][:20], strict=True):
            values = x.reshape(-1) / 255 * 2 - 1
            cells = " ".join(f"{i + 1}:{v:.6g}" for i, v in enumerate(values) if v != 0)
            rows.append(f"{y + 1} {cells}")
        contents.append(bz2.compress("\n".join(rows).encode()))
    entry(served, monkeypatch, "usps", contents)
    assert __main__.main(["usps", "--to", str(tmp_path)]) == 0
    found = np.load(tmp_path / "usps.npz")
    for name in ("x_train", "y_train", "x_test", "y_test"):
        np.testing.assert_array_equal(found[name], known[name][:20])


def test_trec_becomes_the_tables_that_recipes_read(served, monkeypatch, tmp_path, real_data):
    wanted = real_data("text/trec/train.tsv").read_text().splitlines()
    questions = {  # of the authors' file, the first of each class
        "How did serfdom develop in and then leave Russia ?": "DESC:manner",
        "What films featured the character Popeye Doyle ?": "ENTY:cremat",
        "What is the full form of .com ?": "ABBR:exp",
        "What contemptible scoundrel stole the cork from my lunch ?": "HUM:ind",
        "What sprawling U.S. state boasts the most airports ?": "LOC:state",
        "When was Ozzy Osbourne born ?": "NUM:date",
    }
    raw = "".join(f"{label} {text}\n" for text, label in questions.items())
    entry(served, monkeypatch, "trec", [raw.encode(), "HUM:ind Qui est Andr\xe9 ?\n".encode("latin-1")])
    assert __main__.main(["trec", "--to", str(tmp_path)]) == 0
    assert (tmp_path / "text/trec/train.tsv").read_text().splitlines() == [
        next(line for line in wanted if line.startswith(text)) for text in questions
    ]
    assert (tmp_path / "text/trec/test.tsv").read_text("utf-8") == "Qui est André ?\t3\n"


def test_archives_are_unpacked_where_recipes_look(served, monkeypatch, tmp_path):
    root = "hymenoptera_data"
    photos = {f"{root}/train/ants/1.jpg": b"a", f"{root}/val/bees/2.jpg": b"b", f"{root}/train/.DS_Store": b""}
    entry(served, monkeypatch, "hymenoptera", [zipped(photos)])
    sounds = {"fsdd-1/recordings/0_ann_1.wav": b"w", "fsdd-1/README.md": b"r", "fsdd-1/../evil.wav": b"e"}
    entry(served, monkeypatch, "spoken_digits", [zipped(sounds)])
    assert __main__.main(["hymenoptera", "spoken_digits", "--to", str(tmp_path)]) == 0
    found = {str(p.relative_to(tmp_path)): p.read_bytes() for p in tmp_path.rglob("*") if p.suffix == ".jpg"}
    assert found == {"hymenoptera/train/ants/1.jpg": b"a", "hymenoptera/val/bees/2.jpg": b"b"}
    with zipfile.ZipFile(tmp_path / "speech/spoken_digits.zip") as archive:
        assert archive.namelist() == ["0_ann_1.wav"]


def test_the_digests_of_weights_are_those_in_their_names(real_data):
    for file in CATALOGUE["cifar_resnet"].files:
        found = hashlib.sha256(real_data(f"cifar_resnet/{file.name}").read_bytes()).hexdigest()
        assert file.digest == f"sha256:{found[:8]}"


def test_half_a_file_and_another_file_are_not_kept(served, tmp_path):
    served["a.bin"] = b"0123456789"
    right = f"md5:{hashlib.md5(served['a.bin']).hexdigest()}"
    served.cut.add("a.bin")
    with pytest.raises(OSError, match=r"a.bin cannot be read: .*5 of 10|a.bin cannot be read: .*5 bytes read"):
        fetch(File(f"{served.url}/a.bin", right), tmp_path)
    assert not list(tmp_path.iterdir())
    served.cut.clear()
    served.chunked.add("a.bin")
    with pytest.raises(OSError, match=r"a.bin cannot be read: IncompleteRead"):
        fetch(File(f"{served.url}/a.bin", right), tmp_path)
    assert not list(tmp_path.iterdir())
    served.chunked.clear()
    with pytest.raises(ValueError, match="another checksum than md5:00"):
        fetch(File(f"{served.url}/a.bin", "md5:00"), tmp_path)
    assert not list(tmp_path.iterdir())
    assert fetch(File(f"{served.url}/a.bin", right), tmp_path).read_bytes() == b"0123456789"


def test_without_a_network_each_data_set_is_named_and_the_rest_is_fetched(served, monkeypatch, tmp_path, capsys):
    entry(served, monkeypatch, "hymenoptera", [zipped({"h/train/ants/1.jpg": b"a"})])
    del served["hymenoptera_data.zip"]
    entry(served, monkeypatch, "spoken_digits", [zipped({"f/recordings/0_ann_1.wav": b"w"})])
    assert __main__.main(["hymenoptera", "spoken_digits", "--to", str(tmp_path)]) == 1
    told = capsys.readouterr()
    assert "hymenoptera: http://127.0.0.1" in told.err
    assert "404" in told.err
    assert "spoken_digits: 3,000" in told.out
    entry(served, monkeypatch, "hymenoptera", [b"<html>no zip</html>"])
    assert __main__.main(["hymenoptera", "--to", str(tmp_path)]) == 1
    assert "hymenoptera: File is not a zip file" in capsys.readouterr().err


def test_what_there_is_and_what_is_wrong(capsys, monkeypatch):
    monkeypatch.delenv("JTL_DATA", raising=False)
    assert __main__.main([]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == sorted(CATALOGUE)
    with pytest.raises(SystemExit):
        __main__.main(["mnist5"])
    assert "there is no data set 'mnist5'; there are cifar_resnet, hymenoptera" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        __main__.main(["usps"])
    assert "give --to, or set JTL_DATA" in capsys.readouterr().err
