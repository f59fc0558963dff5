"""The page of a comparison: the answer first, coloured verdicts, and no width that it overflows."""

import json
import re
import shutil
import subprocess
from html import escape, unescape

import pytest
from summaries import summary

from fusedface.kernels import ArcFace
from fusedface.recipes.compare.headline import headline
from fusedface.recipes.compare.page import write_page
from fusedface.recipes.compare.plan import plan
from fusedface.recipes.compare.protocols import PAPER_SET, get_protocol, with_settings
from fusedface.recipes.compare.results import RunResult
from fusedface.recipes.compare.statistics import reference_label, summarise
from fusedface.recipes.configuration.settings import override, to_toml
from fusedface.recipes.registry import get_recipe
from fusedface.recipes.report.named_groups import with_short_names
from fusedface.recipes.report.names import short_names

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
# Loss of the paper's set, in its order: final accuracy, target cosine at the end, verdict.
FATES = (
    (0.878, 0.40, "converged"), (0.708, -0.80, "sunk"), (0.796, -0.49, "sunk"),
    (0.686, -0.91, "sunk"), (0.634, -0.96, "collapsed"), (0.876, 0.30, "unfinished"),
)  # fmt: skip
NAMES = (
    "CurricularFace", "ArcFace, m = 0.5", "ArcFace, m = 0.45", "MV-Arc, t = 1.2", "MV-Arc, t = 1.4",
    "NormFace",
)  # fmt: skip


def made_up(run, accuracy, cosine, verdict):
    """A run of 300 steps that ends like that; a little better on each seed."""
    accuracy += 0.003 * run.seed * (1.0 + accuracy)  # so that differences vary between seeds
    lines = [
        {
            "kind": "train", "step": step, "loss": 40.0 - 0.05 * step, "seconds": 0.2 * step, "lr": 0.1,
            "target_cosine": cosine * step / 300, "max_negative_cosine": 0.3 + (cosine - 0.3) * step / 300,
            "accuracy": 0.5, "hard_share": 0.5, "centre_length": 2.5, "epoch": step / 78,
        }
        for step in range(10, 310, 10)
    ]  # fmt: skip
    figures = {
        "accuracy": accuracy, "accuracy_std": 0.01, "tar_at_far": {"0.0001": 0.1}, "auc": 0.9,
    }  # fmt: skip
    evaluations = [
        {
            "kind": "evaluation",
            "step": step,
            "verification": {"synthetic": figures | {"accuracy": a}},
        }
        for step, a in ((0, 0.55), (150, accuracy - 0.05), (300, accuracy))
    ]
    message = "from step 150 to the end " + "and so on, in a sentence that is long, " * 5
    ended = summary(
        recipe=run.label, verdict=verdict, verdict_step=150, steps=300, num_steps=300, message=message,
        num_identities=1000, verification={"synthetic": figures}, peak_memory_mib=1203.5,
    )  # fmt: skip
    run.folder.mkdir(parents=True)
    metrics = [*lines, *evaluations]
    (run.folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in metrics))
    (run.folder / "summary.json").write_text(json.dumps(ended.as_dict()))
    return RunResult(lines, evaluations, ended, run)


@pytest.fixture(scope="module")
def comparison(tmp_path_factory):
    """The paper's set on three seeds: where it is, and its results."""
    out = tmp_path_factory.mktemp("comparison")
    recipes = with_settings([get_recipe(name) for name in PAPER_SET], get_protocol("small"))
    runs = plan(recipes, 3, None, out)
    fates = dict(zip(PAPER_SET, FATES, strict=True))
    results = [made_up(run, *fates[run.label]) for run in runs]
    write_page(results, summarise(results), out)
    return out, results


@pytest.fixture(scope="module")
def cured(tmp_path_factory):
    """CurricularFace and ArcFace with their cures, one of them the best ArcFace."""
    out = tmp_path_factory.mktemp("cured")
    recipes = with_settings([get_recipe(name) for name in PAPER_SET[:2]], get_protocol("short"))
    fates = dict(zip(PAPER_SET, FATES, strict=False)) | {
        "mobilefacenet-arcface + scale warm-up": (0.877, 0.5, "converged")
    }
    runs = plan(recipes, 3, None, out, cures=True)
    results = [made_up(run, *fates.get(run.label, (0.75, -0.2, "sunk"))) for run in runs]
    write_page(results, summarise(results), out)
    return out, results


def test_a_page_with_cures_names_the_best_and_draws_each_loss_for_itself(cured):
    out, results = cured
    text = (out / "report.html").read_text("utf-8")
    body = text[text.index("<body>") :]
    assert "ArcFace is best with scale warm-up; CurricularFace less this is +0." in body
    assert "<caption>Each loss with its best cure</caption>" in body
    assert "ArcFace + straight-through" in body
    for label in PAPER_SET[:2]:
        drawn = (out / "figures" / label / "convergence.svg").read_text()
        assert "margin warm-up" in drawn
        assert "without a cure" in drawn
    assert body.count("<img ") == 2
    by_label = {loss.label: loss for loss in summarise(results)}
    assert by_label["mobilefacenet-arcface + scale warm-up"].against.interval is not None


def test_the_headline_says_who_is_best_what_sank_and_what_no_test_tells_apart(comparison):
    _, results = comparison
    names = short_names({result.run.label: result.run.recipe for result in results})
    assert tuple(names.values()) == NAMES
    first, sank, tested = headline(summarise(results), names, reference_label(results))
    assert first == "CurricularFace ends highest: 88.4 ± 0.6 % (3 seeds)."
    fell = "ArcFace, m = 0.45; ArcFace, m = 0.5; MV-Arc, t = 1.2; MV-Arc, t = 1.4"
    assert sank == f"All cosines fell together in {fell}."
    assert tested.startswith("CurricularFace is better than NormFace; ArcFace, m = 0.45;")
    assert (
        headline(summarise(results[:6]), names, reference_label(results))[2:] == []
    )  # one seed: no test


def test_the_page_begins_with_it_and_marks_verdicts(comparison):
    text = (comparison[0] / "report.html").read_text("utf-8")
    body = text[text.index("<body>") :]
    assert body.index("ends highest") < body.index("<table>")
    for verdict, colour in (
        ("3 converged", "green"),
        ("3 sunk", "red"),
        ("3 unfinished", "yellow"),
    ):
        assert f'<span class="tag {colour}">{verdict}</span>' in body
    assert "mobilefacenet-" not in re.sub(r'(href|src)="[^"]*"', "", body)
    for name in ("convergence", "curriculum", "gradients"):
        for kind in ("png", "svg"):
            assert f'href="figures/{name}.{kind}"' in body
            assert (comparison[0] / "figures" / f"{name}.{kind}").stat().st_size > 0
    drawn = (comparison[0] / "figures" / "convergence.svg").read_text()
    assert "ArcFace, m = 0.45" in drawn
    assert "mobilefacenet" not in drawn


def test_runs_with_recipes_are_drawn_under_short_names(comparison, tmp_path):
    """`plot convergence`; a run whose recipe is gone keeps all as they are."""
    _, results = comparison
    folders = {result.run.label: [result.run.folder] for result in results[:2]}
    assert list(with_short_names(folders)) == list(folders)
    for result in results[:2]:
        (result.run.folder / "recipe.toml").write_text(to_toml(result.run.recipe))
    assert list(with_short_names(folders)) == ["CurricularFace", "ArcFace"]


def test_names_tell_apart_what_a_recipe_changes():
    base = get_recipe("mobilefacenet-arcface")
    assert short_names({"a": base, "b": get_recipe("mobilefacenet-normface")}) == {
        "a": "ArcFace", "b": "NormFace",
    }  # fmt: skip
    warm = get_recipe("mobilefacenet-arcface-scale-warmup")
    assert short_names({"a": base, "w": warm})["w"] == "ArcFace, after s=16, s=32"
    small = override(base, ["head.margin.s=32"])
    assert small.head.margin == ArcFace(s=32.0)
    assert short_names({"a": base, "s": small})["s"] == "ArcFace, s = 32"
    assert short_names({"a": base, "again": base}) == {"a": "a", "again": "again"}


WRAPPER = """<!doctype html>
<iframe id=f style="width:{width}px;height:800px;border:0" srcdoc="{page}"></iframe>
<pre id=out></pre><script>
addEventListener("load", () => setTimeout(() => {{
  const page = document.getElementById("f").contentDocument, root = page.documentElement;
  page.querySelector("th button").click();
  const wide = [...page.querySelectorAll("body *")]
    .filter(e => e.getBoundingClientRect().right > {width} + 1)
    .map(e => e.tagName + " " + e.textContent.slice(0, 40));
  const parts = colour => colour.match(/[\\d.]+/g).map(Number);
  const over = (top, under) => [0, 1, 2].map(i => under[i] + ((top[3] ?? 1) * (top[i] - under[i])));
  const luminance = colour => [0.2126, 0.7152, 0.0722].reduce((sum, factor, i) => {{
    const c = colour[i] / 255;
    return sum + factor * (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
  }}, 0);
  const pale = {{}};
  for (const scheme of ["light", "dark"]) {{
    root.style.colorScheme = scheme;
    const probe = page.body.appendChild(page.createElement("i"));
    probe.style.background = "Canvas";
    const canvas = parts(getComputedStyle(probe).backgroundColor);
    probe.remove();
    const behind = e =>
      e ? over(parts(getComputedStyle(e).backgroundColor), behind(e.parentElement)) : canvas;
    const contrast = e => {{
      const ground = behind(e), ink = over(parts(getComputedStyle(e).color), ground);
      const [dim, bright] = [ground, ink].map(luminance).sort((a, b) => a - b);
      return (bright + 0.05) / (dim + 0.05);
    }};
    const texts = [...page.querySelectorAll("body *:not(script, style)")].filter(
      e => [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim()));
    pale[scheme] = {{canvas: luminance(canvas), least: Math.min(...texts.map(contrast))}};
  }}
  document.getElementById("out").textContent = JSON.stringify({{
    pale,
    overflow: root.scrollWidth - root.clientWidth,
    wide: wide.slice(0, 5),
    sorted: page.querySelectorAll("[aria-sort]").length,
    unlabelled: [...page.querySelectorAll("td")].filter(e => !e.dataset.label).length}});
}}, 300));
</script>"""


@pytest.mark.parametrize("page", ["comparison", "cured"])
@pytest.mark.parametrize("width", [1200, 375])
@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium to open the page with")
def test_in_chromium_nothing_overflows_or_is_pale_or_complained_of(request, tmp_path, width, page):
    page = (request.getfixturevalue(page)[0] / "report.html").read_text("utf-8")
    wrapper = tmp_path / "wrapper.html"
    wrapper.write_text(WRAPPER.format(width=width, page=escape(page, quote=True)), "utf-8")
    done = subprocess.run(
        [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr",
         f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={width + 100},900",
         "--virtual-time-budget=5000", "--dump-dom", wrapper.as_uri()],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert "CONSOLE" not in done.stderr
    said = re.search(r'<pre id="out">(.*?)</pre>', done.stdout, re.DOTALL)
    assert said, done.stderr[-500:]
    found = json.loads(unescape(said[1]))
    assert found["wide"] == []
    assert (found["overflow"], found["sorted"], found["unlabelled"]) == (0, 1, 0)
    light, dark = found["pale"]["light"], found["pale"]["dark"]
    assert light["canvas"] > 0.9
    assert dark["canvas"] < 0.1
    assert min(light["least"], dark["least"]) >= 4.5  # WCAG 2.2, 1.4.3: contrast of text
