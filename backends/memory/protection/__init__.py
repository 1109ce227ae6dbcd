"""Protection of chosen channels and bits: policies, the bit errors that remain, costs, and vulnerability.

Fault tolerance across layers after Zhang et al., arXiv 2312.13754, of which only the abstract is public: neurons and bits differ
in vulnerability, the vulnerable neurons are protected by the architecture, the vulnerable bits by the circuit, and a constraint
on the quantization reduces the need for both. The formulas, the cost model and every number here are our own choices.
"""
