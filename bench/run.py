"""The benchmark: measurements in processes of their own with a memory limit, then bench/results.json and bench/RESULTS.md.

`make bench` ends within 25 minutes on two cores; `make bench-full` repeats more and asks every response of the other tools.
"""
import argparse
import json
import os
import platform
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

HERE = Path(__file__).parent
GEMMA, SMOLLM = "gemma-3-270m", "smollm2-135m-instruct"
WORDS, WEIGHTS = {GEMMA: 262_144, SMOLLM: 49_152}, {GEMMA: 1.1e9, SMOLLM: 0.6e9}  # bytes in float32
WAYS = ["published float32", "own float32", "own mixed", "compiled float32", "compiled mixed"]
GOALS = [  # model, tokens, way, times as fast as the published way in float32
    (GEMMA, 1000, "own float32", 3.0), (GEMMA, 3600, "own float32", 4.5), (SMOLLM, 1000, "own float32", 1.25),
    (SMOLLM, 3600, "own float32", 1.2), (GEMMA, 1000, "own mixed", 4.0), (GEMMA, 3600, "own mixed", 6.0), (SMOLLM, 1000, "own mixed", 2.0)]
PARTS = ("whole", "body", "tokenizing", "head and rest", "products", "attention", "copies and casts", "elementwise")
GIVEN_BACK = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}  # freed memory goes back at once, so that its peak is one of use
SHARES = {"own float32": {1000: 80, 3600: 80, 8000: 65}, "own mixed": {1000: 55, 3600: 55, 8000: 40}}  # percent of the matrix peak


def free_bytes() -> int:
    with open("/proc/meminfo") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))


def measure(what: str, **asked) -> dict:
    "What a child measured, or why it did not; never more than most of the memory that is free."
    limit, begin = int(0.8 * free_bytes()), time.perf_counter()
    print(f"{time.strftime('%H:%M:%S')} {what} {asked}", file=sys.stderr, flush=True)
    command = [sys.executable, str(HERE / "measure.py"), json.dumps(asked | {"what": what, "limit_bytes": limit})]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=900, env=os.environ | {"HF_HUB_OFFLINE": "1"} | (GIVEN_BACK if what == "memory" else {}))
    except subprocess.TimeoutExpired:
        return {**asked, "failed": "takes more than 15 minutes"}
    if done.returncode:
        reason = "does not fit" if "memory" in done.stderr.lower() else (done.stderr.strip().splitlines() or ["no word"])[-1]
        return {**asked, "failed": reason}
    return {**asked, **json.loads(done.stdout.strip().splitlines()[-1]), "took": round(time.perf_counter() - begin)}


def speeds(full: bool) -> list[dict]:
    "Time against length; the published way only where its logits fit (it is told so, not tried)."
    found = []
    for model, lengths in ((GEMMA, (1000, 3600, 8000, 16000)), (SMOLLM, (1000, 3600, 8000))):
        for tokens in lengths:
            copies = 3 * 4 * tokens * WORDS[model] + WEIGHTS[model] * 3
            fits = copies < 0.8 * free_bytes()
            ways = [way for way in WAYS if (fits or way != WAYS[0]) and (full or tokens == 3600 or not way.startswith("compiled"))]  # make bench ends within 25 minutes
            repeats = (9 if full else 3) if tokens < 8000 else (3 if full else 1)
            one = measure("speed", model=model, tokens=tokens, repeats=repeats, ways=ways)
            found.append(one | ({} if fits else {"published": f"does not fit: {copies / 1e9:.0f} GB"}))
    return found


def machine() -> dict:
    "Where this runs."
    return {"processor": processor(), "cores": os.cpu_count(), "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
            "python": platform.python_version(), **{name: version(name) for name in ("torch", "transformers", "lm-eval", "minicons")}}


MEASURES = {  # name -> what is measured, given whether in full
    "speed": speeds,
    "parts": lambda full: [measure("parts", model=model, tokens=3600, dtype=dtype) for model in (GEMMA, SMOLLM) for dtype in ("float32", "mixed")],
    "memory": lambda full: [measure("memory", tokens=8000, words=words) for words in (None, WORDS[GEMMA], WORDS[SMOLLM])],
    "requests": lambda full: [measure("requests", model=SMOLLM, responses=100, sampled=100 if full else 9, batch=batch, tool=tool)
                              for tool in ("minicons", "lm_eval") for batch in (1, 9)],
    "participants": lambda full: [measure("participants", model=SMOLLM, tokens=1000, people=people) for people in (1, 2, 4, 8)],
    "answers": lambda full: [measure("answers", number=number) | {"processor": processor()} for number in (2000, 8000, 32000)],  # needs no model
    "commands": lambda full: [measure("commands") | {"processor": processor()}],  # says where it ran
    "data_set": lambda full: [measure("data_set", number=200_000, responses=125) | {"processor": processor()}],  # needs no model, and says where it ran
}


SECONDS = {"psych201 demo": 180, "psych201 paper --published": 25, "psych201 paper --figures nll_by_size": 6}  # goals of commands


def processor() -> str:
    with open("/proc/cpuinfo") as lines:
        return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def table(head: list[str], rows: list[list]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines) + "\n"


def speed_rows(results: dict) -> list[list]:
    rows = []
    for one in results["speed"]:
        if "failed" in one:
            rows.append([one["model"], f"{one['tokens']:,}", "", "", one["failed"], *[""] * (2 * len(WAYS) - 2)])
            continue
        s, base = one["seconds"], one["seconds"].get(WAYS[0])
        times = [f"{base / s[way]:.2f}" if base and way in s else "" for way in WAYS[1:]]
        moved = one["moved"]["own float32"]
        rows.append([one["model"], f"{one['tokens']:,}", one["responses"], one["repeats"], f"{base:.2f}" if base else one["published"],
                     *(f"{s[way]:.2f}" if way in s else "" for way in WAYS[1:]), *times, f"{moved:.0e}" if base else ""])
    return rows


def share(one: dict, way: str) -> float:
    "Percent of the matrix peak of the same process that needed FLOPs make."
    return 100 * one["needed"] / one["seconds"][way] / one["peak"]["float32" if way.endswith("float32") else "bfloat16"]


def goal_rows(results: dict) -> list[list]:
    "Goal, what was measured, whether it was reached."
    speed = {(one["model"], asked): one for one, asked in zip(results["speed"], (1000, 3600, 8000, 16000, 1000, 3600, 8000)) if "failed" not in one}
    rows = []
    for model, tokens, way, goal in GOALS:
        s = speed.get((model, tokens), {}).get("seconds", {})
        times = s[WAYS[0]] / s[way] if {WAYS[0], way} <= set(s) else 0
        rows.append([f"{model}, {tokens:,} tokens, {way} against the published way", f"{goal:g}x", f"{times:.2f}x" if times else "does not fit", times >= goal])
    for way, wanted in SHARES.items():
        for model, tokens in ((model, tokens) for model in (GEMMA, SMOLLM) for tokens in wanted):
            percent = share(speed[model, tokens], way) if (model, tokens) in speed else 0
            rows.append([f"{model}, {tokens:,} tokens, {way}: share of the matrix peak", f"{wanted[tokens]} %", f"{percent:.0f} %" if percent else "does not fit", percent >= wanted[tokens]])
    for one in results["requests"]:
        times = 0 if "failed" in one else one["seconds"] / one["own"]
        rows.append([f"100 responses against {one['tool']}, batch {one['batch']}", "60x", f"{times:.0f}x" if times else one["failed"], times >= 60])
    trained, large, small = (one.get("above_bytes", float("nan")) / 1e9 for one in results["memory"])
    rows.append([f"memory above the weights, {GEMMA}, 8,000 tokens", "0.8 GB", f"{trained:.3f} GB", trained < 0.8])
    rows.append(["the same with random weights: 49,152 words against 262,144", "within 10 %", f"{small:.3f} and {large:.3f} GB", abs(small / large - 1) < 0.1])
    for one in results["data_set"]:
        known = "failed" not in one
        told = lambda name, number, unit: f"{number:.{1 if number < 10 else 0}f} {unit}" if known else one["failed"]
        minutes, peak, summary = (one.get(name, float("nan")) / unit for name, unit in (("seconds", 60), ("peak_bytes", 1e9), ("summary", 1)))
        rows.append(["200,000 sessions, 25 million responses: simulated, written, split, summarised", "15 min", told("seconds", minutes, "min"), minutes < 15])
        rows.append(["the same: memory of the process", "4 GB", told("peak_bytes", peak, "GB"), peak < 4])
        rows.append(["the same: summary of 149 studies read back", "10 s", told("summary", summary, "s"), summary < 10])
    failed = next((one["failed"] for one in results["answers"] if "failed" in one), "")
    soon, late = results["answers"][-2:]
    slowest = 0 if failed else max(late["seconds"][name] / soon["seconds"][name] for name in soon["seconds"])
    rows.append(["four times as many different answers, any baseline", "8 times the time", failed or f"{slowest:.1f} times", not failed and slowest < 8])
    for one in results["commands"]:
        for command, goal in SECONDS.items():
            took = one.get("seconds", {}).get(command)
            rows.append([f"`{command}`, weights in the cache", f"{goal} s", f"{took:.1f} s" if took else one["failed"], took is not None and took < goal])
    return [[*row, "yes" if reached else "no"] for *row, reached in rows]


def gpu_rows(gpu: dict) -> list[list]:
    "One row a model, length and way: tokens a second, against the published way, share of the peak, memory above the weights."
    base = {(one["model"], one["tokens"]): one.get("seconds") for one in gpu["speed"] if one["way"].startswith("published")}
    rows = []
    for one in gpu["speed"]:
        start = [one["model"], f"{one['tokens']:,}", one["texts"], one["way"]]
        if "failed" in one:
            rows.append([*start, one["failed"], "", "", ""])
            continue
        published, peak = base.get((one["model"], one["tokens"])), gpu["peak"]["float32" if one["way"] == "own float32" else "bfloat16"]
        rows.append([*start, f"{one['tokens'] * one['texts'] / one['seconds']:,.0f}", f"{published / one['seconds']:.2f}" if published else "",
                     f"{100 * one['flops'] / one['seconds'] / peak:.0f} %", f"{one['above_bytes'] / 1e9:.2f}"])
    return rows


def gpu_section(gpu: dict, notes: str) -> list[str]:
    card, peak = gpu["machine"], gpu["peak"]
    about = (f"`python bench/gpu.py` wrote this on {gpu['when']}: {card['gpu']}, {card['memory_gib']} GiB, torch {card['torch']}, transformers {card['transformers']}, "
             f"triton {card['triton']}; product of two matrices of 8,192 rows: {peak['bfloat16'] / 1e12:.0f} TFLOP/s in bfloat16, {peak['float32'] / 1e12:.0f} in float32. "
             f"Random weights of published configurations, texts of random tokens; medians of {gpu['repeats']} runs. Up to 16,384 tokens are read together.\n")
    return ["\n## On a GPU\n", about, notes, table(["model", "tokens", "texts", "way", "tokens/s", "times the published way", "share of the peak", "GB above the weights"], gpu_rows(gpu))]


def report(results: dict, notes: str, gpu: dict | None = None, gpu_notes: str = "") -> str:
    machine = ", ".join(f"{name} {value}" for name, value in results["machine"].items() if name != "when")
    when = ", ".join(f"{name} {day}" for name, day in results["when"].items())
    parts = [[one["model"], one["dtype"], f"{one['tokens']:,}", *(f"{one[name]:.2f}" if name in one else one["failed"] for name in PARTS)] for one in results["parts"]]
    asked = [[one["tool"], one["batch"], one.get("failed") or f"{one['seconds']:.0f}", f"{one.get('own', 0):.1f}", f"{one.get('moved', 0):.0e}"] for one in results["requests"]]
    people = [[one["people"], *([one["failed"], ""] if "failed" in one else [f"{one['seconds']:.1f}", f"{one['seconds'] / one['people']:.2f}"])] for one in results["participants"]]
    return "\n".join([
        "# Benchmark\n", f"`make bench` wrote this: {machine}. Measured: {when}. Seconds; medians of interleaved runs in one process; simulated sessions of the two-armed bandit.\n",
        "## Goals\n", table(["measure", "goal", "measured", "reached"], goal_rows(results)), notes,
        "\n## Time against length\n", "Published way: all logits, cross-entropy of all tokens, attention of transformers. Ours: the whole of a scorer, tokenizing too; compiled: the same with layers that PyTorch compiled before. Where the published way does not fit, there is nothing to compare with.\n",
        table(["model", "tokens", "responses", "runs", *(f"{way}, s" for way in WAYS), *(f"{way}: times" for way in WAYS[1:]), "own float32 from the published way, nats"], speed_rows(results)),
        "## Where the time goes\n", "Seconds; the body by kinds of operations, as a profile has their shares.\n",
        table(["model", "dtype", "tokens", *PARTS], parts),
        "## One request a response\n", f"100 responses of one session, float32, {SMOLLM}; seconds from {results['requests'][0].get('sampled')} evenly spread ones.\n",
        table(["tool", "batch", "their seconds", "our seconds", "largest difference, nats"], asked),
        "## Participants\n", f"Sessions of 1,000 tokens, float32, {SMOLLM}.\n", table(["sessions", "seconds", "each"], people),
        "## Many different answers\n", "One person who never gives an answer twice (numbers for the density): seconds of each baseline, and how much longer four times as many take (4: linear).\n",
        answers_table(results["answers"]),
        "## Time to the first result\n", *map(commands_part, results["commands"]),
        "## A data set as large as Psych-201\n", *map(data_line, results["data_set"]),
        *(gpu_section(gpu, gpu_notes) if gpu else [])])


def commands_part(one: dict) -> str:
    "Seconds of the commands, and the parts of the demo."
    if "failed" in one:
        return f"The commands failed: {one['failed']}.\n"
    parts = ", ".join(f"{name} {took:.1f}" for name, took in one["demo"].items())
    return (f"On {one['processor']}, each command from its start to its end, with weights in the cache:\n\n"
            + table(["command", "seconds"], [[f"`{name}`", f"{took:.1f}"] for name, took in one["seconds"].items()])
            + f"\nParts of the demo, which runs {one['scored']} notebooks that score, one after the other, and {one['drawn']} that draw, several at a time: {parts} s.\n")


def answers_table(found: list[dict]) -> str:
    "Seconds of each baseline at each number of answers, and their ratios."
    if failed := next((one["failed"] for one in found if "failed" in one), None):
        return f"The baselines failed: {failed}.\n"
    numbers = [one["number"] for one in found]
    rows = [[f"`{name}`", *(f"{one['seconds'][name]:.2f}" for one in found), *(f"{late['seconds'][name] / soon['seconds'][name]:.1f}" for soon, late in zip(found, found[1:]))]
            for name in found[0]["seconds"]]
    return f"On {found[0]['processor']}:\n\n" + table(["baseline", *(f"{n:,} answers, s" for n in numbers), *(f"{late:,} / {soon:,}" for soon, late in zip(numbers, numbers[1:]))], rows)


def data_line(one: dict) -> str:
    "What the conversion of the large data set took."
    if "failed" in one:
        return f"The conversion failed: {one['failed']}.\n"
    return (f"On {one['processor']}: {one['sessions']:,} simulated sessions with {one['responses']:,} responses in 149 studies were written as an archive in {one['seconds']:.0f} s "
            f"({one['simulate']:.0f} s of these for the simulation), {one['evaluation']:,} sessions of them for evaluation; {one['bytes'] / 1e6:.0f} MB on disk, {one['peak_bytes'] / 1e9:.2f} GB of memory at "
            f"most (PyTorch, which is loaded beside, among them). Counts of all studies were read back in {one['summary']:.2f} s, the people for evaluation of one study in {one['part']:.2f} s. "
            f"`description.describe` (what `psych201 describe` draws, without the encoder and the figure) went through all of it in {one['describe']:.0f} s.\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="more repeats, every response asked of the other tools")
    parser.add_argument("--only", nargs="*", choices=MEASURES, help="measure only these and keep the rest; none: only write RESULTS.md again")
    words = parser.parse_args()
    path = HERE / "results.json"
    results = {"when": {}} if words.only is None else json.loads(path.read_text())
    if words.only and not set(words.only) <= {"data_set", "commands", "answers"} and results["machine"] != machine():
        raise SystemExit("The results in bench/results.json come from another machine or other versions; measure all (make bench).")
    if words.only is None:
        results["machine"] = machine()
    for name in MEASURES if words.only is None else words.only:
        results[name], results["when"][name] = MEASURES[name](words.full), time.strftime("%Y-%m-%d")
    path.write_text(json.dumps(results, indent=1) + "\n")
    (HERE / "RESULTS.md").write_text(report(results, (HERE / "notes.md").read_text(), json.loads((HERE / "gpu.json").read_text()), (HERE / "gpu_notes.md").read_text()))
    print(f"Written: {HERE / 'RESULTS.md'}")
