"""The method: the objective and its pair of potentials, the steps that train them, how their maps are judged."""
