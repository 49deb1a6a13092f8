"""The environment in which sums come out with the same bits; for processes that have not imported torch."""

#: Sums come out with the same bits only where no library chooses its kernels by the processor or the number
#: of cores. To be set before torch is imported. Another processor may give other bits even so.
ONE_PROCESSOR = {
    "ATEN_CPU_CAPABILITY": "default",
    "MKL_CBWR": "COMPATIBLE",
    "ONEDNN_MAX_CPU_ISA": "SSE41",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
