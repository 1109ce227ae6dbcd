"""Protection of chosen channels and bits: what is protected, what remains wrong, what it costs, and where it pays.

Fault tolerance across layers after Zhang et al., arXiv 2312.13754, of which only the abstract is public: neurons and bits differ
in vulnerability, the vulnerable neurons are protected by the architecture, the vulnerable bits by the circuit, and a constraint
on the quantization makes less of both necessary. The formulas, the cost model and every number here are our own choices.
"""
