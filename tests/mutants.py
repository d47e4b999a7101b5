"""`make mutants`: change the mathematics one operator at a time, and see that the tests notice.

Each mutant is one change in one of five modules: an operator, a comparison, a constant, a negation, a sign, an argument
left out.  It is run in a forked child that has torch loaded but not dashkit, against the tests of its module; it is
killed if they fail or take too long.  First the unchanged modules must survive.  `--only MODULE`; survivors are
listed, with the reason where one is written down in `tests/mutants.csv`.
"""

import argparse
import ast
import copy
import csv
import importlib
import importlib.abc
import importlib.util
import os
import random
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
TESTS = {
    "schedule": ["test_schedule", "test_sample", "test_exact"],
    "guidance": ["test_guidance", "test_sample"],
    "objectives": ["test_objectives", "test_claims::test_every_arm_has_the_learning_rate_that_tuning_chose"],
    "curriculum": ["test_curriculum"],
    "metrics": ["test_metrics", "test_unet"],
}
REASONS = ROOT / "tests" / "mutants.csv"
HEAVY = ("diffusers.models.unets.unet_2d", "diffusers.schedulers.scheduling_ddim", "pandas", "pytest", "scipy.linalg",
         "scipy.stats", "sklearn.datasets", "safetensors.torch", "torch.utils.flop_counter")
SECONDS, WANTED = 120, 0.9
_BINARY = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult,
           ast.Mod: ast.Mult, ast.Pow: ast.Mult, ast.MatMult: ast.Add, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd}
_COMPARE = {ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
            ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is}


class Mutant(NamedTuple):
    module: str
    line: int
    change: str      # the changed line, before and after
    source: str      # of the whole module

    @property
    def name(self) -> str:
        return f"{self.module}: {self.change}"


def variants(node: ast.AST) -> Iterator[ast.AST]:
    """Other nodes in the place of `node`, each a likely slip."""
    if isinstance(node, ast.BinOp) and type(node.op) in _BINARY:
        yield ast.BinOp(node.left, _BINARY[type(node.op)](), node.right)
    elif isinstance(node, ast.AugAssign) and type(node.op) in _BINARY:
        yield ast.AugAssign(node.target, _BINARY[type(node.op)](), node.value)
    elif isinstance(node, ast.Compare):
        for i, op in enumerate(node.ops):
            yield ast.Compare(node.left, [*node.ops[:i], _COMPARE[type(op)](), *node.ops[i + 1:]], node.comparators)
    elif isinstance(node, ast.BoolOp):
        yield ast.BoolOp(ast.Or() if isinstance(node.op, ast.And) else ast.And(), node.values)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.Not | ast.Invert):
        yield node.operand
    elif isinstance(node, ast.Constant) and isinstance(node.value, int | float) and not isinstance(node.value, bool):
        yield ast.Constant(node.value + 1)
        if node.value not in (0, 1):
            yield ast.Constant(-node.value)
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield ast.Constant(not node.value)
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and not node.args and not node.keywords:
        yield node.func.value                                       # x.sqrt() becomes x
    elif isinstance(node, ast.IfExp):
        yield ast.IfExp(node.test, node.orelse, node.body)


def mutants(module: str) -> list[Mutant]:
    """Every mutant of a module; docstrings, messages of errors, annotations and imports are left alone."""
    source = (ROOT / "dashkit" / f"{module}.py").read_text()
    tree, lines, found = ast.parse(source), source.splitlines(), []
    skipped: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Raise | ast.JoinedStr | ast.Import | ast.ImportFrom):
            skipped |= {id(n) for n in ast.walk(node)}
        for name in ("annotation", "returns"):
            if getattr(node, name, None) is not None:
                skipped |= {id(n) for n in ast.walk(getattr(node, name))}
    places = [n for n in ast.walk(tree) if id(n) not in skipped]
    for index, node in enumerate(places):
        for kind in range(sum(1 for _ in variants(node))):
            twin = copy.deepcopy(tree)
            own = [n for n, old in zip(ast.walk(twin), ast.walk(tree), strict=True) if id(old) not in skipped][index]
            new = list(variants(own))[kind]
            before = ast.unparse(own)
            for field, _ in list(ast.iter_fields(own)):
                delattr(own, field)
            own.__class__ = new.__class__
            for field, value in ast.iter_fields(new):
                setattr(own, field, value)
            text = ast.unparse(ast.fix_missing_locations(twin))
            found.append(Mutant(module, node.lineno, f"{before} -> {ast.unparse(own)}  in  "
                                                     f"{lines[node.lineno - 1].strip()}", text))
    return found


class Planted(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports one module of dashkit from a text."""

    def __init__(self, mutant: Mutant) -> None:
        self.mutant = mutant

    def find_spec(self, name, path, target=None):
        if name == f"dashkit.{self.mutant.module}":
            file = str(ROOT / "dashkit" / f"{self.mutant.module}.py")
            return importlib.util.spec_from_file_location(name, file, loader=self)
        return None

    def create_module(self, spec):
        return None

    def exec_module(self, module) -> None:
        exec(compile(self.mutant.source, module.__spec__.origin, "exec"), module.__dict__)


def start(mutant: Mutant) -> int:
    """Run the module's tests on a mutant in a forked child; its process id.  It ends with 0 if nothing was noticed."""
    child = os.fork()
    if child:
        return child
    os.setsid()
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1), os.dup2(silence, 2)
    sys.meta_path.insert(0, Planted(mutant))
    import pytest

    files = [f"{ROOT}/tests/{name.replace('::', '.py::') if '::' in name else name + '.py'}"
             for name in TESTS[mutant.module]]
    os._exit(int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", "-o", "addopts=", "--rootdir", str(ROOT),
                              "-W", "ignore::pytest.PytestAssertRewriteWarning", *files])))


def run(found: list[Mutant], at_once: int) -> Iterator[tuple[Mutant, str]]:
    """Each mutant with what became of it: killed, survived or timeout."""
    waiting, running = list(reversed(found)), {}
    while waiting or running:
        while waiting and len(running) < at_once:
            mutant = waiting.pop()
            running[start(mutant)] = (mutant, time.monotonic())
        child, status = os.waitpid(-1, os.WNOHANG)
        if child:
            mutant, _ = running.pop(child)
            yield mutant, "survived" if status == 0 else "killed"
        for child, (mutant, began) in list(running.items()):
            if time.monotonic() - began > SECONDS:
                os.killpg(child, signal.SIGKILL)
                os.waitpid(child, 0)
                del running[child]
                yield mutant, "timeout"
        time.sleep(0.02)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=TESTS, action="append")
    parser.add_argument("--sample", type=int, help="this many of all, drawn with a fixed seed")
    options = parser.parse_args()
    import torch
    from tqdm import tqdm

    for name in HEAVY:                            # loaded once, here, for all children
        importlib.import_module(name)

    if any(name.split(".")[0] == "dashkit" for name in sys.modules):
        raise SystemExit("dashkit must not be loaded before its mutants are")
    torch.set_num_threads(1)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"           # nbval's takes seconds to import, in every child
    unchanged = [Mutant(m, 1, "nothing", (ROOT / "dashkit" / f"{m}.py").read_text()) for m in options.only or TESTS]
    broken = [mutant.module for mutant, fate in run(unchanged, 1) if fate != "survived"]
    if broken:                                    # or every mutant would count as killed
        raise SystemExit(f"the tests of {', '.join(broken)} fail without any change")
    everything = [m for module in options.only or TESTS for m in mutants(module)]
    if options.sample:
        everything = random.Random(0).sample(everything, min(options.sample, len(everything)))
    reasons = {}
    if REASONS.is_file():
        with REASONS.open(newline="") as file:
            reasons = {row["mutant"]: row["reason"] for row in csv.DictReader(file)}
    began, tally, survivors = time.monotonic(), dict.fromkeys(TESTS, (0, 0)), []
    for mutant, fate in tqdm(run(everything, max(1, os.cpu_count() or 1)), total=len(everything), mininterval=5):
        dead, total = tally[mutant.module]
        tally[mutant.module] = dead + (fate != "survived"), total + 1
        if fate == "survived":
            survivors.append(mutant)
    for module, (dead, total) in tally.items():
        if total:
            print(f"{module:12s} {dead:4d} of {total:4d} killed")
    for mutant in sorted(survivors):
        print(f"survived  {mutant.name}\n          {reasons.get(mutant.name, 'NO REASON WRITTEN DOWN')}")
    dead, total = sum(d for d, _ in tally.values()), len(everything)
    print(f"{dead} of {total} killed ({dead / total:.1%}), {len(survivors)} survived, "
          f"{sum(m.name not in reasons for m in survivors)} of them unexplained; {time.monotonic() - began:.0f} s")
    return 0 if dead >= WANTED * total and all(m.name in reasons for m in survivors) else 1


if __name__ == "__main__":
    sys.exit(main())
