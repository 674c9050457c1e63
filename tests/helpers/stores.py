"""Short sessions, stores of their scores, and processes that score."""
import random
import subprocess
import sys

from helpers import ROOT
from psych201 import data, scoring, store
from psych201.transcripts import Transcript

# keys of an identity: those that must match, and those that are proved by rescoring
MUST = {"weights", "config", "tokenizer", "dtype", "format", "rule", "max_tokens"}
PROVED = {"code", "torch", "transformers", "tokenizers", "attention", "device", "compiled"}


def session(participant: int, study: str = "wulff2020", trials: int = 6) -> Transcript:
    "A short session, another for each participant."
    random.seed(f"{study} {participant}")
    text = "".join(f"Round {n}: you play machine <<{random.choice('JF')}>>. It pays {random.randint(0, 9)}.\n" for n in range(trials))
    return Transcript(text, study, "exp1", str(participant), participant)


def dataset(n: int, study: str = "wulff2020") -> data.Dataset:
    return data.Dataset([session(participant, study) for participant in range(n)])


def rows(folder) -> list[tuple]:
    return store.read_scores(folder).rows()


def run_score(scorer, transcripts, folder, **options):
    return scoring.score(scorer, transcripts, folder, progress="none", **options)


PROCESS = """
import random, sys
sys.path.insert(0, "tests")
from helpers.stores import dataset
from psych201 import models, scoring
from psych201.scoring.run import Limits
model, people = models.load_model("tiny-llama", device="cpu"), dataset(int(sys.argv[2]), sys.argv[3])
if "wait" in sys.argv: print("ready", flush=True); sys.stdin.readline()
scoring.score(model, people, sys.argv[1], progress="none", limits=Limits(int(sys.argv[4])))
"""


def process(*words, wait: bool = False) -> subprocess.Popen:
    "A process of its own that scores: folder, number of transcripts, study, transcripts of a shard."
    command = [sys.executable, "-c", PROCESS, *map(str, words), *(["wait"] if wait else [])]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                            cwd=ROOT)


def picks(participant: int, answers: str) -> Transcript:
    "A session of one-letter answers."
    return Transcript("Pick. " + ", ".join(f"<<{answer}>>" for answer in answers), "wulff2020", "exp1", str(participant))
