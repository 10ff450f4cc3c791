import sys, types
from pathlib import Path
ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
import torch
from benchmarks.gpu_checks import losses, machine
from benchmarks.gpu_checks.bench import Bench, Section
torch.set_num_threads(1)
b = Bench(torch.device("cpu"), True, 500, Path("/tmp/gpucheck/out"))
b.run([Section("machine", 5, machine.cases), Section("losses", 5, losses.cases)])
