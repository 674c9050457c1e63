"""Kernels that are forked: they die alone, end with their command, and compute what others do."""
import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nbformat
import pytest

from psych201.workbench.kernels import kernel_in_force, this_python, warm_kernels
from psych201.workbench.runner import WorkbenchError, run_notebook

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="kernels are forked on Linux only")
MODULES = ("polars", "numpy", "matplotlib.pyplot")
WORK = """
import numpy, polars
rows = polars.DataFrame({"group": numpy.arange(100_000) % 7, "x": numpy.random.default_rng(n).integers(100, size=100_000)})
sums = rows.lazy().group_by("group").agg(polars.col("x").sum()).sort("group").collect()
print(sums["x"].to_list(), numpy.linalg.matrix_rank(numpy.outer(sums["x"], sums["x"])))
"""  # whole numbers: polars adds in parallel, in any order


def notebook(folder: Path, code: str) -> Path:
    "A notebook with one parameter, n."
    cells = [nbformat.v4.new_code_cell("n = 0  # a number", metadata={"tags": ["parameters"]}), nbformat.v4.new_code_cell(code)]
    made = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": {"name": "python3", "display_name": "python3", "language": "python"}})
    nbformat.write(made, folder / "made.ipynb")
    return folder / "made.ipynb"


def alive(process: int) -> bool:
    "Whether a process runs; one that has ended and waits to be reaped does not."
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def gone(processes: list[int], seconds: float = 15) -> bool:
    end = time.monotonic() + seconds
    while any(map(alive, processes)) and time.monotonic() < end:
        time.sleep(0.1)
    return not any(map(alive, processes))


def test_forked_kernels_compute_what_new_ones_do_also_many_at_a_time(tmp_path):
    path = notebook(tmp_path, WORK)
    run = lambda n: nbformat.read(run_notebook(path, tmp_path / f"{n}.ipynb", {"n": n}, verbose=False), 4).cells[-1].outputs[0].text
    with this_python():
        expected = run(3)
    with warm_kernels(*MODULES), ThreadPoolExecutor(4) as pool:
        found = list(pool.map(run, range(8)))
    assert found[3] == expected and len(set(found)) == 8


def test_warm_kernels_have_their_imports_and_new_ones_do_not(tmp_path):
    "A context of warm kernels inside another one changes nothing; inside this_python it is one."
    path = notebook(tmp_path, "import sys\nprint('polars' in sys.modules)")
    run = lambda: nbformat.read(run_notebook(path, tmp_path / "out.ipynb", {}, verbose=False), 4).cells[-1].outputs[0].text
    with this_python():
        assert run() == "False\n" and kernel_in_force() and not kernel_in_force(warm=True)
        with warm_kernels("polars"), warm_kernels():
            assert run() == "True\n" and kernel_in_force(warm=True)
    assert not kernel_in_force()


def test_a_kernel_that_dies_takes_no_other_along(tmp_path):
    path = notebook(tmp_path, "import os, signal\nif n: os.kill(os.getpid(), signal.SIGKILL)")
    with warm_kernels():
        with pytest.raises(WorkbenchError, match="DeadKernelError|died"):
            run_notebook(path, tmp_path / "dead.ipynb", {"n": 1}, verbose=False)
        run_notebook(path, tmp_path / "good.ipynb", {"n": 0}, verbose=False)
    with pytest.raises(WorkbenchError, match="ZeroDivisionError: division by zero"), warm_kernels():
        run_notebook(notebook(tmp_path, "1 / n"), tmp_path / "wrong.ipynb", {}, verbose=False)


COMMAND = """
import sys
from psych201.workbench.kernels import warm_kernels
from psych201.workbench.runner import run_notebook
with warm_kernels("polars"): run_notebook(sys.argv[1], sys.argv[2], {})
"""


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGKILL])
def test_kernels_end_with_their_command(tmp_path, sent):
    path = notebook(tmp_path, "import os, time\nprint('kernel', os.getpid(), os.getppid(), flush=True)\ntime.sleep(600)")
    command = subprocess.Popen([sys.executable, "-c", COMMAND, str(path), str(tmp_path / "out.ipynb")], stdout=subprocess.PIPE,
                               stderr=subprocess.DEVNULL, text=True, start_new_session=True)
    line = next(line for line in command.stdout if line.startswith("kernel"))
    processes = [int(word) for word in line.split()[1:]]
    assert all(map(alive, processes))
    os.kill(command.pid, sent)
    command.wait(30)
    assert gone(processes), "a kernel or the process that forks outlived the command"


WARMING = """
import time
from psych201.workbench.kernels import warm_kernels
with warm_kernels("slow"): time.sleep(600)
"""


def test_an_interrupt_while_modules_are_imported_is_for_the_command_alone(tmp_path):
    "Ctrl-C goes to every process of a terminal's group."
    (tmp_path / "slow.py").write_text("import time; from pathlib import Path\nPath(__file__).with_name('begun').touch()\ntime.sleep(600)")
    command = subprocess.Popen([sys.executable, "-c", WARMING], stderr=subprocess.PIPE, text=True, start_new_session=True,
                               env=os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])})
    end = time.monotonic() + 60
    while not (tmp_path / "begun").exists() and time.monotonic() < end:
        time.sleep(0.05)
    assert (tmp_path / "begun").exists(), "no process imports the module"
    os.killpg(command.pid, signal.SIGINT)
    _, errors = command.communicate(timeout=30)
    assert (errors.count("Traceback"), "in serve" in errors, errors.strip().endswith("KeyboardInterrupt")) == (1, False, True), errors


def test_without_a_fork_a_kernel_is_a_new_python(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    with warm_kernels("polars"):
        done = run_notebook(notebook(tmp_path, "import sys\nprint('polars' in sys.modules)"), tmp_path / "out.ipynb", {}, verbose=False)
    assert nbformat.read(done, 4).cells[-1].outputs[0].text == "False\n"


def test_the_kernel_is_this_python(tmp_path, monkeypatch):
    "Also where another kernel python3 stands first on Jupyter's path."
    other = tmp_path / "kernels" / "python3"
    other.mkdir(parents=True)
    (other / "kernel.json").write_text(json.dumps({"argv": ["/bin/false"], "display_name": "other", "language": "python"}))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    cells = [nbformat.v4.new_code_cell("n = 1", metadata={"tags": ["parameters"]}),
             nbformat.v4.new_code_cell("import sys; print(sys.executable)")]
    metadata = {"kernelspec": {"name": "python3", "display_name": "python3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=metadata), tmp_path / "which.ipynb")
    done = run_notebook(tmp_path / "which.ipynb", tmp_path / "out.ipynb", {"n": 2}, verbose=False)
    assert nbformat.read(done, 4).cells[-1].outputs[0].text.strip() == sys.executable
    assert os.environ["JUPYTER_PATH"] == str(tmp_path)
