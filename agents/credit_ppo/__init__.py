"""PPO that knows what each candidate was worth."""

from agents.credit_ppo.credit_ppo import CREDITS, RATIOS, CreditPPO
from agents.credit_ppo.critic import RidgeCritic

__all__ = ["CREDITS", "RATIOS", "CreditPPO", "RidgeCritic"]
