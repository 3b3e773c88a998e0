"""Programs carried out as kernels and matmuls of CUDA."""
