# How GPAW is built for this project (GPAW_CONFIG): serial, without libxc and BLAS libraries, so that a C++ compiler and
# Python's headers are all it needs. Its own PBE, revPBE, RPBE and LDA are there; other functionals need libxc.
mpi = False
nolibxc = True
noblas = True
libraries = []
compiler = "g++"
