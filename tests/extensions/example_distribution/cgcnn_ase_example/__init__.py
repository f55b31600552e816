"""One of each part that other distributions can add to cgcnn-ase, each in a file of its own."""
