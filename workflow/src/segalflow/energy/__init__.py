"""Energy models: the first contract. Samplers see only `segalflow.energy.base.EnergyModel`."""
