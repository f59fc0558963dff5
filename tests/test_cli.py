"""The command line: what it prints, and that a user's mistake is a message and not a traceback."""

import ast
import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from cli_calls import invoke, mistake, one_line
from face_files import write_people

from fusedface.bench import roofline
from fusedface.recipes.host.terminal import visible
from fusedface.recipes.registry import MOBILEFACENET
from fusedface.recipes.summaries import BACKBONES

ROOT = Path(__file__).resolve().parents[1]
TINY = [
    "--set", "backbone.input_size=[32, 32]", "--set", "backbone.width=0.25",
    "--set", "backbone.embedding_dim=16", "--set", "optim.batch_size=4", "--set", "schedule.steps=2",
    "--set", "schedule.warmup_steps=0",
]  # fmt: skip


def test_recipe_list():
    output = invoke("recipe", "list")
    assert all(name in output for name in MOBILEFACENET)
    assert all(f"{name}-..." in output for name in BACKBONES)
    assert "mobilefacenet-hsface10k" in output
    assert "IResNet-18: ArcFace" in invoke("recipe", "show", "iresnet18-arcface")


def test_recipe_show_is_a_recipe_file(tmp_path):
    text = invoke("recipe", "show", "mobilefacenet-curricular", "--set", "optim.lr=0.05")
    assert tomllib.loads(text)["optim"]["lr"] == 0.05
    (tmp_path / "mine.toml").write_text(text)
    assert invoke("recipe", "show", tmp_path / "mine.toml") == text


def test_version():
    assert "fusedface" in invoke("--version")


def test_run_and_evaluate_on_folders(tmp_path):
    people = write_people(tmp_path / "people", names=("ann", "bob", "cyd", "dan"), images=4)
    pairs = tmp_path / "pairs.txt"
    lines = [f"{a}/{a}_0001.png {b}/{b}_0002.png {int(a == b)} {f}"
             for f, a in enumerate(("ann", "bob")) for b in ("ann", "bob", "cyd")]  # fmt: skip
    pairs.write_text("\n".join(lines))
    out = tmp_path / "run"
    arguments = [
        "--data",
        people,
        "--set",
        "data.resize=true",
        "--pairs",
        pairs,
        "--root",
        people,
        "--out",
        out,
        "--device",
        "cpu",
    ]
    output = invoke("recipe", "run", "mobilefacenet-curricular", *arguments, *TINY)
    assert "pairs" in output
    summary = json.loads((out / "summary.json").read_text())
    assert summary["steps"] == 2
    assert set(summary["verification"]) == {"pairs"}
    assert (out / "curves.png").exists()
    assert (out / "curves.svg").exists()

    checkpoint = next((out / "checkpoints").glob("step-*.pt"))
    shown = invoke(
        "evaluate", checkpoint, "--root", people, "--pairs", pairs, "--out", tmp_path / "results"
    )
    assert "accuracy, 2 folds" in shown
    assert invoke("evaluate", checkpoint, "--data", people, "--pairs", pairs) in shown
    results = json.loads((tmp_path / "results" / "results.json").read_text())
    assert (
        results["verification"]["pairs"]["accuracy"] == summary["verification"]["pairs"]["accuracy"]
    )
    assert (tmp_path / "results" / "roc.svg").exists()


def test_data_preview(tmp_path):
    invoke("data", "preview", "--out", tmp_path / "a.png", "--identities", 2, "--images", 2)
    invoke("data", "preview", write_people(tmp_path / "people"), "--out", tmp_path / "b.png")
    assert (tmp_path / "a.png").exists()
    assert (tmp_path / "b.png").exists()


def test_bench_kernels(tmp_path, monkeypatch):
    # The ceilings of the device, of small operands: a large bfloat16 product takes half a minute on a
    # processor without such arithmetic.
    for name, size in (("CPU_PRODUCT", 64), ("CPU_COPY", 2**20), ("CPU_EXPS", 2**8)):
        monkeypatch.setattr(roofline, name, size)
    output = invoke(
        "bench", "kernels", "--shape", "8x300x16", "--phases", "start", "--rounds", 1, "--only", "fused",
        "--no-memory", "--out", tmp_path / "rows.json", "--device", "cpu",
    )  # fmt: skip
    assert "fused arcface" in output
    assert len(json.loads((tmp_path / "rows.json").read_text())["rows"]) == 6


def test_doctor():
    output = invoke("doctor")
    assert "backend on cpu" in output
    assert "chunked" in output
    assert "layers on cpu" in output


MISTAKES = [
    (
        ["recipe", "run", "mobilefacenet-curiculr"],
        ["mobilefacenet-curiculr", "mobilefacenet-curricular"],
    ),
    (["recipe", "show", "nowhere.toml"], ["nowhere.toml"]),
    (
        ["recipe", "run", "mobilefacenet-curricular", "--set", "optim.lrr=1"],
        ["optim.lrr", "optim.lr"],
    ),
    (["recipe", "run", "mobilefacenet-curricular", "--set", "optim.lr=fast"], ["optim.lr", "fast"]),
    (["recipe", "run", "mobilefacenet-curricular", "--set", "optim.lr"], ["optim.lr"]),
    (["recipe", "run", "mobilefacenet-curricular", "--resume"], ["--resume needs --out"]),
    (
        ["recipe", "run", "mobilefacenet-curricular", "--data", "nowhere"],
        ["nowhere", "does not exist"],
    ),
    (["recipe", "run", "mobilefacenet-curricular", "--device", "cuda:77"], ["cuda:77"]),
    (
        ["recipe", "run", "mobilefacenet-mvarc-t1.2", "--set", "head.margin.t=0.2"],
        ["did you mean 1 + t"],
    ),
    (["evaluate", "nowhere.pt", "--root", ".", "--pairs", "nowhere.txt"], ["nowhere.pt"]),
    (["evaluate", "nowhere.pt"], ["nowhere.pt does not exist"]),
    (["evaluate", ".", "--pairs", "a.txt", "--root", ".", "--data", "."], ["one of them"]),
    (["data", "preview", "nowhere"], ["nowhere does not exist"]),
    (["data", "preview", "--difficulty", "2"], ["difficulty"]),
    (["bench", "kernels", "--shape", "12"], ["BxCxD", "'12'"]),
    (["bench", "tune", "--device", "cuda:77"], ["cuda:77"]),
    *[
        (["recipe", "run", "mobilefacenet-curricular", "--device", name], ["cannot be used", name])
        for name in ("meta", "mkldnn", "privateuseone", "vulkan", "xla", "lazy", "hpu", "nonsense")
    ],
    (["recipe", "run", "mobilefacenet-curricular", "--data", ""], ["--data is empty"]),
    (["data", "check", ""], ["empty"]),
    (["evaluate", "x.pt", "--pairs=", "--device", "cpu"], ["--pairs is empty"]),
    (["bench", "kernels", "--phases", "middle"], ["start or late", "'middle'"]),
]


@pytest.mark.parametrize("case", range(len(MISTAKES)))
def test_mistakes_are_messages(case, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    arguments, words = MISTAKES[case]
    message = one_line(mistake(capsys, monkeypatch, *arguments))
    assert message.startswith("error:")
    assert all(word in message for word in words), message


@pytest.mark.parametrize("words", [["--help"], ["recipe", "run", "--help"], ["recipe", "list"]])
def test_help_and_the_list_wait_for_no_torch(words):
    code = (
        "import sys, fusedface.cli as cli\n"
        "try:\n    cli.main()\nfinally:\n    assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert ("Usage" if "--help" in words else "mobilefacenet-curricular") in done.stdout


def test_without_the_package_it_says_what_to_run():
    """A Python that has none of the dependencies, as after a fresh clone."""
    done = subprocess.run(
        [sys.executable, "-S", str(ROOT / "cli.py")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "pip install -c constraints.txt -e ." in done.stderr
    assert "Traceback" not in done.stderr


HOSTILE = ["a\x1b[2J\x1b]0;owned\x07.toml", "a [/x] [red]b", "\x9b2J", "\u202etxt", "x" * 70_000]
COMMANDS = [
    ["recipe", "show", "{}"],
    ["recipe", "run", "{}"],
    ["recipe", "run", "mobilefacenet-curricular", "--data", "{}"],
    ["recipe", "run", "mobilefacenet-curricular", "--set", "{}=1"],
    ["recipe", "run", "mobilefacenet-curricular", "--set", "optim.lr={}"],
    ["recipe", "run", "mobilefacenet-curricular", "--device", "{}"],
    ["recipe", "run", "mobilefacenet-curricular", "--val", "{}"],
    ["recipe", "compare", "{}"],
    ["recipe", "compare", "--protocol", "{}"],
    ["recipe", "compare", "--margins", "{}"],
    ["recipe", "compare", "--seeds", "{}"],
    ["evaluate", "{}", "--pairs", "{}"],
    ["export", "{}"],
    ["data", "preview", "{}"],
    ["data", "check", "{}"],
    ["data", "pack", "{}", "out"],
    ["data", "make-bin", "{}", "{}", "out.bin"],
    ["data", "align", "{}", "{}", "out"],
    ["plot", "convergence", "{}"],
    ["bench", "kernels", "--shape", "{}"],
    ["bench", "compare", "{}", "{}"],
    ["{}"],
    ["recipe", "{}"],
    ["doctor", "--{}"],
]  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_hostile_names_act_on_no_terminal(command, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for name in HOSTILE:
        error = mistake(capsys, monkeypatch, *(part.format(name) for part in command))
        assert all(letter == "\n" or visible(letter) == letter for letter in error), ascii(error)
        assert len(error) < 20_000


def test_folders_with_hostile_names_are_data(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "a\x1b[2J [red]x"
    write_people(folder, names=("ann [red]x", "bob\x1b[2J"), images=2)
    shown = invoke("data", "check", folder)
    shown += invoke("data", "pack", folder, tmp_path / "out \x1b[2J [red]y")
    assert r"a\x1b[2J [red]x" in shown
    assert r"out \x1b[2J [red]y" in shown
    assert "\x1b" not in shown


def test_only_one_module_prints():
    """Everything else goes through it, so that no name is printed in another way."""
    own = [
        p
        for p in ROOT.rglob("*.py")
        if not {".venv", "tests", "build"} & set(p.relative_to(ROOT).parts)
    ]
    assert len(own) > 100
    for path in own:
        name = path.relative_to(ROOT).as_posix()
        if name == "recipes/host/terminal.py":
            continue
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            where = f"{name}:{node.lineno}"
            if node.func.attr == "print" and node.args:
                assert not isinstance(node.args[0], ast.Constant | ast.JoinedStr | ast.BinOp), where
            assert node.func.attr != "status", where
            if node.func.attr == "echo":
                assert name in ("cli.py", "commands/recipe.py"), where  # versions, a recipe file
