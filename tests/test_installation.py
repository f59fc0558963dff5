"""What is installed works from anywhere, and each part needs no more than it says."""

import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def installed(tmp_path_factory):
    """The project as `pip install` lays it, from a wheel, without its dependencies."""
    folder = tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    options = ["--no-deps", "--no-build-isolation", "--no-index"]
    source = folder / "source"  # building leaves files behind
    listing = ["git", "ls-files", "-co", "--exclude-standard"]
    tracked = subprocess.check_output(listing, cwd=ROOT, text=True).splitlines()
    for name in tracked:
        if (ROOT / name).is_file() and not name.startswith(("docs/", "tests/")):
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    subprocess.run([*pip, "wheel", *options, "-w", str(folder), str(source)], check=True)
    (wheel,) = folder.glob("fusedface-*.whl")
    subprocess.run(
        [*pip, "install", *options, "--target", str(folder / "site"), str(wheel)], check=True
    )
    return folder / "site"


def required_by(*names):
    """These packages and all that they declare to need, as they are installed here."""
    found, left = {}, list(names)
    while left:
        name = left.pop()
        try:
            distribution = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue  # of another platform, or an extra
        if distribution.name in found:
            continue
        found[distribution.name] = distribution
        needs = [Requirement(line) for line in distribution.requires or ()]
        left.extend(need.name for need in needs if not need.marker or need.marker.evaluate())
    return list(found.values())


@pytest.fixture(scope="session")
def torch_only(tmp_path_factory):
    """A folder with torch, triton and numpy and what these need, and nothing else."""
    folder = tmp_path_factory.mktemp("torch_only")
    for distribution in required_by("torch", "triton", "numpy"):
        for file in distribution.files or ():
            top = file.parts[0]
            target = Path(str(distribution.locate_file(top)))
            if top not in ("..", "__pycache__") and target.exists() and not (folder / top).exists():
                (folder / top).symlink_to(target)
    return folder


def python(code, *paths, cwd):
    """Standard output of a program that sees these folders and the standard library."""
    environment = {
        "PYTHONPATH": ":".join(map(str, paths)),
        "PATH": "/usr/bin:/bin",
        "HOME": str(cwd),
    }
    done = subprocess.run(
        [sys.executable, "-S", "-c", code], env=environment, cwd=cwd, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_kernels_and_models_need_only_torch_triton_and_numpy(installed, torch_only, tmp_path):
    code = """
import importlib.util, torch, fusedface
for name in ("albumentations", "matplotlib", "PIL", "rich", "scipy", "tensorboard", "typer"):
    assert importlib.util.find_spec(name) is None, name
from fusedface.kernels import CurricularFace
from fusedface.models import MarginHead, create
backbone = create("mobilefacenet", embedding_dim=16, input_size=(32, 32))
head = MarginHead(embedding_dim=16, num_classes=7, margin=CurricularFace())
head(backbone(torch.zeros(2, 3, 32, 32)), torch.tensor([0, 6])).loss.backward()
assert head.weight.grad.isfinite().all()
print(fusedface.__file__)
"""
    assert str(installed) in python(code, installed, torch_only, cwd=tmp_path)


def test_importing_the_kernels_loads_neither_triton_nor_the_compiler(tmp_path):
    code = (
        "import sys, torch; before = set(sys.modules)\n"
        "import fusedface.kernels; print(*set(sys.modules) - before)"
    )
    loaded = subprocess.check_output([sys.executable, "-c", code], cwd=tmp_path, text=True).split()
    tops = {".".join(name.split(".")[:2]) for name in loaded}
    assert tops.isdisjoint({"triton", "torch._dynamo", "torch._inductor", "scipy", "sympy"})
    assert "fusedface.kernels" in tops


def command(installed, *arguments, cwd):
    """A command of the installed project, run in an empty folder."""
    code = "from fusedface.cli import main; main()"
    environment = {"PYTHONPATH": str(installed), "PATH": "/usr/bin:/bin", "HOME": str(cwd)}
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env=environment, cwd=cwd, capture_output=True, text=True,
    )  # fmt: skip


def test_a_wheel_runs_from_an_empty_folder(installed, tmp_path):
    shown = command(installed, "recipe", "show", "mobilefacenet-curricular", cwd=tmp_path)
    assert 'name = "mobilefacenet-curricular"' in shown.stdout, shown.stderr
    tiny = [
        "data.synthetic.num_identities=4", "data.synthetic.images_per_identity=4", "schedule.steps=2",
        "optim.batch_size=8", "backbone.input_size=[32, 32]", "backbone.width=0.25",
        "evaluation.num_identities=20", "evaluation.num_pairs=40", "schedule.warmup_steps=1",
    ]  # fmt: skip
    settings = [word for setting in tiny for word in ("--set", setting)]
    run = command(installed, "recipe", "run", "mobilefacenet-curricular", *settings, cwd=tmp_path)
    assert run.returncode == 0, run.stdout + run.stderr
    assert (tmp_path / "runs" / "mobilefacenet-curricular" / "summary.json").exists()


def test_of_the_source_tree_only_it_can_write_the_readme(installed, tmp_path):
    done = command(installed, "bench", "readme", cwd=tmp_path)
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    assert "README.md" in done.stdout + done.stderr


def test_every_package_is_in_the_wheel_and_typed(installed):
    tops = ("kernels", "models", "data", "recipes", "bench", "commands")
    folders = {path.parent.relative_to(ROOT) for top in tops for path in (ROOT / top).rglob("*.py")}
    assert len(folders) > 10
    assert (installed / "fusedface" / "py.typed").exists()  # holds for all packages below it
    assert not [str(f) for f in folders if not any((installed / "fusedface" / f).glob("*.py"))]
