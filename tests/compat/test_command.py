"""`install` and `python -m pathline.compat`: programs and packages of the original's, unchanged, on this library."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import textwrap

import pytest
import torch

import pathline.compat
from pathline.compat import __main__ as command
from pathline.compat import torchdiffeq as ours

#: The fit of a spiral as tutorials write it.
SCRIPT = """
import argparse
import torch
import torch.nn as nn
import torchdiffeq

parser = argparse.ArgumentParser()
parser.add_argument("--niters", type=int, default=3)
parser.add_argument("--adjoint", action="store_true")
args = parser.parse_args()

if args.adjoint:
    from torchdiffeq import odeint_adjoint as odeint
else:
    from torchdiffeq import odeint

true_y0 = torch.tensor([[2.0, 0.0]])
t = torch.linspace(0.0, 5.0, 20)
true_A = torch.tensor([[-0.1, 2.0], [-2.0, -0.1]])


class Lambda(nn.Module):
    def forward(self, t, y):
        return torch.mm(y**3, true_A)


with torch.no_grad():
    true_y = odeint(Lambda(), true_y0, t, method="dopri5")


class ODEFunc(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, 50), nn.Tanh(), nn.Linear(50, 2))
        self.nfe = 0

    def forward(self, t, y):
        self.nfe += 1
        return self.net(y**3)


if __name__ == "__main__":
    torch.manual_seed(0)
    func = ODEFunc()
    optimizer = torch.optim.RMSprop(func.parameters(), lr=1e-3)
    for itr in range(args.niters):
        optimizer.zero_grad()
        pred_y = odeint(func, true_y0, t[:10], rtol=1e-5, atol=1e-6)
        loss = torch.mean(torch.abs(pred_y - true_y[:10].reshape(10, 1, 2)))
        loss.backward()
        optimizer.step()
    print(f"library {torchdiffeq.odeint.__module__}")
    print(f"loss {loss.item():.5f} nfe {func.nfe > 0}")
"""


@pytest.fixture
def swapped():
    """The stand-in installed; afterwards all is as before."""
    kept = {name: module for name, module in sys.modules.items() if name.partition(".")[0] in PACKAGES}
    for name in kept:
        del sys.modules[name]
    pathline.compat.install("torchdiffeq")
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] in PACKAGES]:
        del sys.modules[name]
    sys.modules.update(kept)


PACKAGES = ("torchdiffeq", "torchcde", "flow_matching")


def run(*arguments, cwd):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *map(str, arguments)], cwd=cwd, capture_output=True, text=True, timeout=50, env=environment
    )


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    path = tmp_path_factory.mktemp("program") / "ode_demo.py"
    path.write_text(SCRIPT)
    return path


# --- the command -------------------------------------------------------------------------------------------------


def test_an_unmodified_script_runs_and_is_checked(script):
    plain = run(script, "--niters", "2", cwd=script.parent)
    ours = run("-m", "pathline.compat", "--check", script.name, "--niters", "2", cwd=script.parent)
    assert plain.returncode == 0, plain.stderr
    assert ours.returncode == 0, ours.stderr
    assert "library torchdiffeq." in plain.stdout
    assert "library pathline.compat.torchdiffeq" in ours.stdout
    losses = [float(found.stdout.split()[3]) for found in (plain, ours)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    counted, checked = ours.stderr.splitlines()[-2:]
    assert counted.startswith("pathline.compat: 3 solves, ")
    assert " s in the solver" in counted
    assert checked.startswith("check: 1 of 3 solves repeated with torchdiffeq 0.2.5: largest difference ")
    assert "times as long as ours" in checked


def test_a_module_a_failure_and_an_exit_status(tmp_path):
    package = tmp_path / "tool"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "__main__.py").write_text(
        textwrap.dedent("""
        import sys, torch
        from torchdiffeq import odeint
        print(odeint.__module__, sys.argv[1:])
        odeint(lambda t, y: -y, torch.ones(1), torch.tensor([0.0, 1.0]))
        raise SystemExit(7)
        """)
    )
    found = run("-m", "pathline.compat", "-m", "tool", "--flag", "x", cwd=tmp_path)
    assert found.returncode == 7
    assert found.stdout.strip() == "pathline.compat.torchdiffeq ['--flag', 'x']"
    assert found.stderr.startswith("pathline.compat: 1 solves, ")


@pytest.mark.parametrize("arguments", [[], ["no_such_file.py"]])
def test_what_cannot_be_run(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        command.main(arguments)
    assert caught.value.code == 2
    assert "error" in capsys.readouterr().err


def test_the_check_reports_values_gradients_and_what_the_original_refuses():
    from pathline.compat._check import Check

    check, field = Check(), torch.nn.Linear(2, 2).double()
    func = lambda t, y: field(y)  # noqa: E731
    before = ours.odeint, ours.odeint_adjoint
    try:
        check.start()
        y0, t = torch.ones(3, 2, dtype=torch.float64), torch.tensor([0.0, 1.0], dtype=torch.float64)
        for name, given in (("odeint", {}), ("odeint_adjoint", {"adjoint_params": tuple(field.parameters())})):
            check.repeat(name, func, y0, t, given)
        check.repeat("odeint", func, y0, t, {"method": "tsit5"})
    finally:
        ours.odeint, ours.odeint_adjoint = before
    assert check.repeated == 2
    assert 0.0 < max(check.values) < 1e-6
    assert len(check.gradients) == 2
    assert max(check.gradients) < 1e-5
    first, second = check.report()
    assert first.startswith("check: 2 of 0 solves repeated")
    assert "not repeated, ValueError" in second
    assert field.weight.grad is None


def test_the_check_sees_a_wrong_answer():
    from pathline.compat._check import difference

    assert difference([torch.tensor([1.0, 2.0])], [torch.tensor([1.0, 4.0])]) == 0.5


# --- install -----------------------------------------------------------------------------------------------------


def test_install_takes_the_place_of_the_library(swapped):
    import torchdiffeq

    assert torchdiffeq is ours
    assert importlib.import_module("torchdiffeq").odeint_event is ours.odeint_event
    from torchdiffeq import odeint, odeint_adjoint, odeint_dense, odeint_event

    assert {f.__module__ for f in (odeint, odeint_adjoint, odeint_dense, odeint_event)} == {ours.__name__}


def test_install_of_something_else():
    with pytest.raises(ValueError, match="torchdiffeq"):
        pathline.compat.install("jax")


# --- packages that import the original themselves ----------------------------------------------------------------


def controlled(adjoint):
    """A neural CDE of torchcde's: its rows and gradients."""
    import torchcde

    torch.manual_seed(0)
    x = torch.linspace(0.0, 1.0, 7).unsqueeze(0).unsqueeze(-1) + torch.rand(4, 7, 2).double()
    control = torchcde.CubicSpline(torchcde.hermite_cubic_coefficients_with_backward_differences(x))

    class Field(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = torch.nn.Linear(3, 6).double()

        def forward(self, t, z):
            return torch.tanh(self.linear(z)).view(*z.shape[:-1], 3, 2)

    field = Field()
    z0 = torch.rand(4, 3).double().requires_grad_()
    options = {"jump_t": control.grid_points} if adjoint else {}
    z = torchcde.cdeint(
        X=control,
        func=field,
        z0=z0,
        t=control.interval,
        adjoint=adjoint,
        method="dopri5",
        options=options,
        rtol=1e-6,
        atol=1e-8,
    )
    # By backpropagation the original's gradient to z0 passes through its first step size too, and is wrong by 0.06.
    inputs = [*field.parameters(), *([z0] if adjoint else [])]
    return [z, *torch.autograd.grad(z[:, -1].square().sum(), inputs)]


def flow(method, step_size):
    """Samples and log densities of a flow_matching solver."""
    from flow_matching.solver import ODESolver

    torch.manual_seed(0)
    net = torch.nn.Linear(2, 2)

    def velocity(x, t):
        return torch.tanh(net(x)) + t

    solver = ODESolver(velocity_model=velocity)
    start = torch.rand(5, 2)
    samples = solver.sample(
        start, step_size=step_size, method=method, time_grid=torch.linspace(0.0, 1.0, 4), return_intermediates=True
    )
    end, density = solver.compute_likelihood(
        samples[-1], log_p0=lambda x: -x.square().sum(-1), step_size=step_size, method=method, exact_divergence=True
    )
    return [samples, end, density]


@pytest.mark.parametrize(
    "program",
    [
        lambda: controlled(adjoint=True),
        lambda: controlled(adjoint=False),
        lambda: flow("midpoint", 0.1),
        lambda: flow("dopri5", None),
    ],
    ids=["torchcde-adjoint", "torchcde", "flow_matching-midpoint", "flow_matching-dopri5"],
)
def test_packages_that_import_it(program, swapped):
    found = program()
    assert sys.modules["torchdiffeq"] is ours
    for name in [name for name in sys.modules if name.partition(".")[0] in PACKAGES]:
        del sys.modules[name]
    theirs = program()
    assert sys.modules["torchdiffeq"] is not ours
    for a, b in zip(found, theirs, strict=True):
        assert a.shape == b.shape
        torch.testing.assert_close(a, b, rtol=2e-3, atol=2e-3)
