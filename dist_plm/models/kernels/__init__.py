"""Operations that a GPU does in one launch: Triton's form for CUDA, a vectorised one for the CPU, the same numbers."""
