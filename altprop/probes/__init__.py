"""Instruments that watch a run: health of the learning signal, and cost."""
