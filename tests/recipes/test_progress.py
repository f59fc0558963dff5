"""What a user reads while a run goes on."""

import io
import re

from rich.console import Console

from fusedface.recipes.training.display import LiveDisplay, PlainDisplay, Status, make_display


def status():
    return Status(
        name="a run",
        num_steps=420,
        num_epochs=6.0,
        batch_size=64,
        initial_loss=41.06,
        collapse_loss=39.95,
        step=70,
        seconds_per_step=1.6,
        lr=0.0815,
        figures={"loss": 37.5, "target_cosine": 0.1234, "t": 0.0562, "hard_share": 0.871},
        verification={"lfw": 0.7025},
        slope_gap=0.1224,
        pace_steps=312.4,
    )


def text_of(display_type, terminal):
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=terminal, width=200, height=40)
    display = display_type(console)
    display.logged(status())
    display.note("a [bracketed] note")
    display.close()
    return stream.getvalue()


def test_one_plain_line_has_everything():
    text = text_of(PlainDisplay, terminal=False)
    assert "\x1b" not in text
    line, note = text.splitlines()
    assert note == "a [bracketed] note"
    for part in (
        "step 70/420", "epoch 1.00/6.00", "40.0 images/s", "ETA 0:09:20", "loss 37.50",
        "random 41.1, collapsed 40.0", "target cosine 0.123", "t 0.056", "hard 87.1%", "lr 0.0815",
        "verified on lfw 70.25%",
        "F0 0.12, 1/beta 312 steps",
    ):  # fmt: skip
        assert part in line


def test_the_panel_has_the_same_figures():
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text_of(LiveDisplay, terminal=True))
    for part in (
        "70 / 420",
        "1.00 / 6.00",
        "40.0 images/s",
        "0:09:20",
        "37.50",
        "0.123",
        "70.25%",
        "1/beta 312",
    ):
        assert part in text
    assert "a [bracketed] note" in text


def test_nothing_is_claimed_before_it_is_known():
    empty = Status(
        name="x", num_steps=10, num_epochs=1.0, batch_size=8, initial_loss=1.0, collapse_loss=2.0
    )
    assert empty.eta == "-"
    assert empty.images_per_second == 0.0
    stream = io.StringIO()
    PlainDisplay(Console(file=stream, width=200)).logged(empty)
    assert "loss" not in stream.getvalue()


def test_the_display_fits_the_console():
    assert isinstance(make_display(Console(file=io.StringIO())), PlainDisplay)
    # As FORCE_COLOR makes a console of a file.
    to_file = Console(file=io.StringIO(), force_terminal=True)
    assert isinstance(make_display(to_file), PlainDisplay)
    variables = {"TERM": "dumb"}
    dumb = Console(file=Screen(), force_terminal=True, _environ=variables)
    assert isinstance(make_display(dumb), PlainDisplay)
    variables["TERM"] = "xterm"
    live = make_display(Console(file=Screen(), force_terminal=True, _environ=variables))
    assert isinstance(live, LiveDisplay)
    live.close()


class Screen(io.StringIO):
    """The file of a terminal."""

    def isatty(self):
        return True
