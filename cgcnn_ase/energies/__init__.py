"""Any source of energies (a model, an ASE calculator, CHGNet) behind one interface, and the scales they are on."""
