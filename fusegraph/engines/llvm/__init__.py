"""The llvm engine: regions compiled to machine code through llvmlite."""
