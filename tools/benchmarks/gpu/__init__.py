"""One measuring run on a GPU; see `tools.benchmarks.gpu_run`."""
