"""What a model's card says of the data it was trained on."""

#: where the data sets of the recipes come from
SOURCES = {
    "mp36k": (
        "crystals of the Materials Project (PBE and PBE+U, snapshot of about 2020, legacy compatibility corrections), "
        "the id list of MT-CGCNN. Source: A. Jain et al., APL Mater. 1, 011002 (2013); Materials Project, CC BY 4.0; "
        "packed from the repositories kdmsit/MEGNet and kdmsit/crysxpp (MIT)."
    ),
    "mp_elastic": (
        "elastic moduli (Voigt, Reuss, Hill averages) of crystals of the Materials Project. Source: M. de Jong et al., "
        "Sci. Data 2, 150009 (2015); A. Jain et al., APL Mater. 1, 011002 (2013); Materials Project, CC BY 4.0."
    ),
    "vacancies": (
        "neutral vacancies in oxides, PBE+U: M. Witman et al., Nat. Comput. Sci. 3, 675 (2023), packed from the "
        "repository sandialabs/d2gnn (MIT); oxygen vacancies in oxides: Y. Kumagai et al., Phys. Rev. Materials 5, "
        "123803 (2021), packed from zj-163/CAGNN (MIT); vacancies, OptB88vdW: K. Choudhary and B. Sumpter, AIP Adv. "
        "13, 095109 (2023), from usnistgov/alignn (NIST licence); unrelaxed vacancies in oxides of the Materials "
        "Project (CC BY 4.0) and in the training hosts of the first two sets, labelled with CHGNet 0.4.2 (B. Deng et "
        "al., Nat. Mach. Intell. 5, 1031 (2023); an interatomic potential, not DFT). A host of one set is not used for "
        "training where another set tests its formula."
    ),
    "defects": (
        "supercells with and without one point defect, made from layers of 2DMatPedia (J. Zhou et al., Sci. Data 6, 86 "
        "(2019), packed from Franklalalala/learn_2dmatpedia, MIT) and of JARVIS (K. Choudhary and B. Sumpter, AIP Adv. "
        "13, 095109 (2023), NIST licence), from crystals of the Materials Project (A. Jain et al., APL Mater. 1, "
        "011002 (2013); CC BY 4.0) and from published structures of cathodes. No formula of a host is in two splits."
    ),
}

#: more to say of where a model trained on a data set is not to be trusted
LIMITS = {
    "vacancies": (
        "The vacancies are neutral and isolated. An element of which no vacancy is in the training set, such as "
        "lithium in the sets of oxides, is flagged: the number given for it is an extrapolation. The models differ in "
        "what was calculated (functional, +U, chemical potentials): never mix their values.\n\n"
    ),
    "defects": (
        "The defects were made, not relaxed: displacements up to about 0.05 Å were learned, the larger ones around a "
        "relaxed defect were not. A cell without any repetition (a glass, a molecule) has nothing to hold an atom "
        "against. A defect is found in a supercell; a primitive cell with an atom less is another perfect "
        "crystal.\n\n"
    ),
}

#: what the models know, and what is outside
KNOWS_CRYSTALS = (
    "It knows ordered bulk crystals of the kinds in the Materials Project at their relaxed geometries. Elements\n"
    "it has never seen, strongly strained or random geometries, molecules and slabs are outside; `in_domain` and its "
    "reason\nsay so for the first two."
)
#: where it is something else
KNOWS = {
    "defects": (
        "It knows supercells of layers, of crystals with few atoms in the primitive cell, and of cathodes. Elements it "
        "has never seen,\nstrongly strained or random geometries and molecules are outside; `in_domain` and its reason "
        "say so for the first two."
    )
}

#: how the test split was used, where not for the tables alone
TEST_USE = {
    "vacancies": (
        "While the recipe was being found, errors on the test split were seen beside those on the validation split, "
        "whose hosts are few: the figures may be a little better than those of a set that nobody has seen."
    ),
    "defects": (
        "The first evaluation on test hosts showed false alarms in displaced cells, upon which such cells were added "
        "to the training set: the figures may be a little better than those of a set that nobody has seen."
    ),
}
