"""Every verb explains itself, every slip gets one sentence with the nearest name, and no secret is printed."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from pipeline.engine.track import without_password
from stages.__main__ import VERBS, main
from stages.failures import FULL


@pytest.mark.parametrize("words", [(), ("-h",), ("--help",)])
def test_without_a_verb_the_verbs_are_listed(kintsugi, words):
    said = kintsugi(*words)
    assert said.code == 0
    assert all(f"  {verb} " in said.out and what in said.out for verb, (_, what) in VERBS.items())
    assert said.err == ""


@pytest.mark.parametrize("words", [(verb,) for verb in VERBS] + [("run", "toy"), ("plan", "partial_views")])
def test_every_verb_has_help_that_fits_a_terminal(kintsugi, words):
    said = kintsugi(*words, "--help")
    assert (said.code, said.err) == (0, "")
    assert said.out.startswith(f"usage: kintsugi {' '.join(words)}")
    assert 4 <= len(said.out.splitlines()) < 100
    assert max(map(len, said.out.splitlines())) <= 120
    if len(words) == 1 and words[0] not in ("run", "plan", "estimate", "search", "submit", "preflight"):
        assert "--store" in said.out
        assert "--json" in said.out


def test_a_recipes_help_has_its_docstring_and_defaults(kintsugi):
    said = kintsugi("run", "toy", "--help").out
    assert "Write two numbers." in said
    assert "a number or none." in said
    assert "(default: 1)" in said
    assert "--set" in said


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (("rnu",), ("'rnu'", "did you mean 'run'?")),
        (("run",), ("say which recipe", "partial_views")),
        (("plan", "--json"), ("say which recipe",)),
        (("plan", "partial_veiws"), ("'partial_veiws'", "did you mean 'partial_views'?")),
        (("plan", "zzz"), ("there are", "partial_views", "toy")),
        (("plan", "toy", "--vlaue", "3"), ("'--vlaue'", "did you mean '--value'?")),
        (("plan", "toy", "--stroe=x"), ("did you mean '--store'?",)),
        (("plan", "toy", "value"), ("'value'", "options begin with --")),
        (("plan", "toy", "--value", "abc"), ("--value", "'abc'", "kintsugi plan toy --help")),
        (("plan", "toy", "--value"), ("--value",)),
        (("plan", "folder", "--on-bad", "ignore"), ("'ignore'", "fail", "skip", "quarantine")),
        (("plan", "toy", "--set", "vlaue=3"), ("'vlaue'", "did you mean 'value'?")),
        (("plan", "toy", "--set", "inner.rat=3"), ("'inner.rat'", "did you mean 'inner.rate'?")),
        (("plan", "toy", "--set", "iner.rate=3"), ("'iner.rate'", "did you mean 'inner.rate'?")),
        (("plan", "toy", "--set", "inner.rate.x=3"), ("inner.rate.x", "nothing below")),
        (("plan", "toy", "--set", "inner.names.7=3"), ("inner.names.7", "2 positions")),
        (("plan", "toy", "--set", "value=abc"), ("'value'", "int", "'abc'")),
        (("plan", "toy", "--set", "value"), ("write --set path=value",)),
        (("plan", "toy", "--set", "value=[1"), ("--set value is not plain YAML",)),
        (("show",), ("name", "kintsugi show --help")),
        (("show", "toi"), ("'toi'", "recipes are", "toy")),
        (("diff", "one"), ("required", "kintsugi diff --help")),
        (("diff", "one", "two"), ("there is no 'one'",)),
        (("ls", "--jsno"), ("did you mean '--json'?",)),
        (("gc", "--yse"), ("did you mean '--yes'?",)),
        (("evaluate", "m"), ("--test",)),
        (("evaluate", "m", "--test", "t"), ("there is no 'm'",)),
        (("sample", "m"), ("there is no 'm'",)),
        (("plan", "partial_views", "--data", "nowhere"), ("nowhere", "check the path")),
        (("plan", "partial_views", "--size", "7"), ("even",)),
        (("plan", "partial_views", "--budget", "2"), ("budget", "0 to 1")),
        (("plan", "toy", "--store", "nonsense://x"), ("nonsense",)),
    ],
)
def test_a_slip_gets_one_sentence_and_exit_code_2(kintsugi, words, parts):
    kintsugi(*words).refused(*parts)


def test_an_empty_folder_is_refused(kintsugi, tmp_path):
    (tmp_path / "nothing").mkdir()
    kintsugi("run", "partial_views", "--data", "nothing").refused("nothing of the kind is in it")
    assert not (tmp_path / "runs").exists()


def test_a_traceback_is_for_debug_only(kintsugi, monkeypatch):
    monkeypatch.setenv("KINTSUGI_DEBUG", "")
    assert "Traceback" not in kintsugi("plan", "toi").err
    said = kintsugi("plan", "toi", "--debug")
    assert said.code == 2
    assert "Traceback" in said.err
    assert said.err.splitlines()[-1].startswith("kintsugi: there is no recipe 'toi'")


def test_interrupting_is_no_failure_of_the_program(kintsugi, monkeypatch):
    monkeypatch.setattr("stages.__main__._command", lambda words: (_ for _ in ()).throw(KeyboardInterrupt))
    kintsugi("ls").refused("the same command continues", code=130)


@pytest.mark.parametrize("number", sorted(FULL))
def test_a_full_disk_is_told_from_a_wrong_path(kintsugi, monkeypatch, number):
    failing = OSError(number, os.strerror(number), "/data/x")
    monkeypatch.setattr("stages.__main__._command", lambda words: (_ for _ in ()).throw(failing))
    kintsugi("ls").refused("the disk is full (/data/x)", "kintsugi gc", code=1)


URLS = [
    ("s3://user:secret@bucket/x", "s3://bucket/x"),
    ("http://user:sec:ret@ho.st:80/x?sig=secret&a=b", "http://ho.st:80/x"),
    ("http://secret@host", "http://host"),
    ("http://u:p@ss@host/secretless", "http://host/secretless"),
    ("https://host/a?token=secret", "https://host/a"),
    ("sqlite:////tmp/a/mlflow.db", "sqlite:////tmp/a/mlflow.db"),
    ("file:///a/me@home/x", "file:///a/me@home/x"),
    ("a.b@c.d and 2 // 3", "a.b@c.d and 2 // 3"),
]


@pytest.mark.parametrize(("url", "shown"), URLS)
def test_urls_lose_password_and_query_and_nothing_else(url, shown):
    assert without_password(url) == shown
    assert without_password(f"at '{url}', twice {url} there") == f"at '{shown}', twice {shown} there"
    assert json.loads(without_password(json.dumps({"url": url, "b": "x@y"}))) == {"url": shown, "b": "x@y"}


@pytest.mark.parametrize(
    "words",
    [
        ("plan", "partial_views", "--data", "http://user:secret@127.0.0.1:9/x?sig=secret"),
        ("ls", "--store", "ftp://user:secret@127.0.0.1:9/x"),
        ("show", "a", "--store", "memory://box/x?sig=secret"),
        ("run", "toy", "--store", "memory://box/x?sig=secret"),
        ("run", "toy", "--store", "nonsense://user:secret@box/x", "--debug"),
        ("doctor", "--store", "memory://box/x?sig=secret"),
    ],
)
def test_no_password_in_a_url_is_ever_printed(kintsugi, toy, monkeypatch, words):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:secret@127.0.0.1:9")
    monkeypatch.setenv("RAY_ADDRESS", "ray://user:secret@127.0.0.1:9")
    said = kintsugi(*words)
    assert said.out + said.err
    assert "secret" not in said.out + said.err


def test_doctor_checks_and_says_what_failed(kintsugi, tmp_path, monkeypatch):
    said = kintsugi("doctor", "--json")
    assert said.json["failed"] == []
    assert {"python", "packages", "cores", "device", "store", "space", "ray", "mlflow"} == said.json["checks"].keys()
    (tmp_path / "file").touch()
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    said = kintsugi("doctor", "--json", "--store", "file/runs")
    assert said.code == 1
    assert said.json["failed"] == ["store", "ray"]
    assert "--store" in said.json["checks"]["store"]
    assert "FAILED ray" in kintsugi("doctor").out


def test_help_waits_for_neither_torch_nor_ray(fresh):
    heavy = "{'torch', 'ray', 'mlflow', 'tyro'}"
    code = f"import sys; from stages.__main__ import main; main([]); print(sorted({heavy} & {{*sys.modules}}))"
    assert fresh(code).splitlines()[-1] == "[]"


def test_what_is_wrong_with_data_or_a_command_waits_for_neither_torch_nor_ray(fresh, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "set").mkdir()
    (tmp_path / "x.npy").write_bytes(b"text")
    (tmp_path / "set" / "1.png").write_bytes(b"any")
    here = str(tmp_path)
    code = f"""if True:
        import sys
        from stages.__main__ import main
        bad = ["empty", "nowhere", "x.npy", "set --sgima 3", "set --sigma 0", "set --split test"]
        bad = [f"data {here}/{{one}}" for one in [*bad, "set --against nowhere"]]
        for words in ["ls", "run nothing", "rnu", "show nothing", *bad]:
            words = [word if word != "nowhere" else "{here}/nowhere" for word in words.split()]
            assert main([*words, "--store", "{here}/store"]) == (2 if words != ["ls"] else 0), words
            print(words, sorted({{"torch", "ray", "mlflow", "matplotlib"}} & {{*sys.modules}}))"""
    said = fresh(code).splitlines()
    assert sum(line.startswith("[") for line in said) == 11
    assert all(line.endswith(" []") for line in said if line.startswith("[")), said


def test_main_takes_the_words_of_the_process(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["kintsugi", "rnu"])
    assert main() == 2
    assert "did you mean 'run'?" in capsys.readouterr().err


@pytest.mark.slow
def test_who_has_read_enough_is_told_nothing_more():
    """As `| head -1` has; the rest is not printed, and is no failure."""
    words = [sys.executable, "-m", "stages", "show", "presets"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as command:
        command.stdout.close()
        said = command.stderr.read()
    assert (command.returncode, said) == (0, b"")
