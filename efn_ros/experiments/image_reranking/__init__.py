"""Language-conditioned similarity of images, appendix D: what is compared of an image under an instruction, what makes
it, and how it is remembered.

Networks are imported by `encoder` and `detector` alone; everything else is NumPy.
"""
