"""L_U of N features against torch.pdist: seconds and peak memory.

``pdist`` is the published form, log(exp(-t pdist(z)^2).mean()). Each measurement runs in a process of its own, so
that the peak of one is not the other's; its memory is the growth of the process's peak over the features themselves.

    python benchmarks/ssl_lu.py [--threads 2] [--device cpu] [--sizes 20000 50000] [--dim 256]
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import time
from multiprocessing.connection import Connection


def measure(name: str, n: int, dim: int, device: str, threads: int, answer: Connection) -> None:
    import torch

    from wasskit.evaluation.uniformity import gaussian_uniformity

    torch.set_num_threads(threads)
    z = torch.nn.functional.normalize(torch.randn(n, dim, generator=torch.Generator().manual_seed(0))).to(device)
    gaussian_uniformity(z[:64])
    on_gpu = z.is_cuda
    if on_gpu:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated() / 2**20
    else:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    began = time.perf_counter()
    try:
        value = gaussian_uniformity(z) if name == "ours" else torch.pdist(z).pow(2).mul(-2).exp().mean().log()
        result = float(value)
    except (RuntimeError, MemoryError) as error:
        answer.send((None, str(error).splitlines()[0], None))
        return
    seconds = time.perf_counter() - began
    after = (
        torch.cuda.max_memory_allocated() / 2**20
        if on_gpu
        else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    )
    answer.send((seconds, result, after - before))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--sizes", type=int, nargs="+", default=[20000, 50000])
    parser.add_argument("--dim", type=int, default=256)
    arguments = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    print(f"L_U of (N, {arguments.dim}) on {arguments.device}, {arguments.threads} threads")
    for n in arguments.sizes:
        found = {}
        for name in ("pdist", "ours"):
            ours, theirs = context.Pipe()
            process = context.Process(
                target=measure, args=(name, n, arguments.dim, arguments.device, arguments.threads, theirs)
            )
            process.start()
            theirs.close()
            try:
                found[name] = ours.recv()
            except EOFError:
                found[name] = (None, "the process died: out of memory", None)
            process.join()
            seconds, value, memory = found[name]
            if seconds is None:
                print(f"N = {n:>6}  {name:>6}  failed: {value}")
            else:
                print(f"N = {n:>6}  {name:>6}  {seconds:7.2f} s  {memory:9.0f} MB  {value:.6f}")
        if found["pdist"][0] and found["ours"][0]:
            print(f"N = {n:>6}  {found['pdist'][0] / found['ours'][0]:.1f} times faster")


if __name__ == "__main__":
    main()
