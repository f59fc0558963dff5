"""The mutants of a few lines, counted by hand; and the list of what is mutated."""

import ast

from mutate import ROOT, TARGETS
from mutation.mutants import mutants

SOURCE = '''
LIMIT = 3

def inside(x, low=0.0):
    """Not -1."""
    if not low < x <= LIMIT:
        raise ValueError(f"{x - 1} is outside")
    return abs(-x) + min(x, 2)

class Box:
    def area(self):
        self.check()
        return self.a * self.b and True
'''


def changes():
    return {(m.function, m.before, m.after) for m in mutants(SOURCE)}


def test_every_kind_of_change():
    assert {
        (None, "LIMIT = 3", "LIMIT = 4"),
        ("inside", "low < x <= LIMIT", "low <= x <= LIMIT"),
        ("inside", "low < x <= LIMIT", "low < x < LIMIT"),
        ("inside", "not low < x <= LIMIT", "low < x <= LIMIT"),
        ("inside", "raise ValueError(f'{x - 1} is outside')", "pass"),
        ("inside", "abs(-x) + min(x, 2)", "abs(-x) - min(x, 2)"),
        ("inside", "abs(-x)", "abs(x)"),
        ("inside", "min(x, 2)", "max(x, 2)"),
        ("inside", "min(x, 2)", "min(x, 3)"),
        ("Box.area", "self.check()", "pass"),
        ("Box.area", "self.a * self.b", "self.a / self.b"),
        ("Box.area", "self.a * self.b and True", "self.a * self.b or True"),
        ("Box.area", "self.a * self.b and True", "self.a * self.b and False"),
    } <= changes()


def test_texts_stay_and_each_mutant_is_another_program():
    assert not any("- 1}" in before and after != "pass" for _, before, after in changes())
    trees = [ast.dump(ast.parse(mutant.source)) for mutant in mutants(SOURCE)]
    assert len({*trees, ast.dump(ast.parse(SOURCE))}) == len(trees) + 1


def test_what_is_mutated_is_there():
    assert [name for name in TARGETS if not (ROOT / name).exists()] == []
