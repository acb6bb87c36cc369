"""From images to the feature maps c2 to c5; one file for each family, with and without ACmix."""
