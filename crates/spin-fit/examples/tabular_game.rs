//! The game on tables: prints KL(p_data ‖ p_t) by round for SPIN at several λ,
//! for T-SPIN and SPACE, with finite samples and with a policy that cannot
//! represent p_data; with a path, draws the first table as SVG.
//!
//!     cargo run --release -p spin-fit --example tabular_game -- docs/questions/tabular.svg

use std::fmt::Write as _;
use std::io::Write as _;

use spin_fit::objective::PairObjective;
use spin_fit::tabular::{Game, Policy, closed_form, free, kl, softmax, weights_of};
use spin_noise::{SplitMix64, unit};
use spin_run::run::Loss;

/// p_data and θ0: a model that has the right order of answers but is too flat,
/// and likes one answer that people do not give.
const DATA: [f64; 6] = [0.40, 0.25, 0.15, 0.10, 0.06, 0.04];
const START: [f64; 6] = [0.24, 0.18, 0.14, 0.12, 0.12, 0.20];

const LAMBDAS: [f64; 8] = [0.1, 0.4, 0.5, 0.7, 1.0, 1.5, 3.0, 10.0];
const ROUNDS: usize = 10;
/// Repetitions of what is drawn.
const DRAWS: u64 = 200;

fn objective(loss: Loss, beta: f64, initial_weight: f64) -> PairObjective {
    PairObjective { loss, beta, initial_weight, mu: 1.0, label_smoothing: 0.0, nll_weight: 0.0 }
}

/// KL(p_data ‖ p_t) for t = 0, 1, … of a rule from opponent to next player.
fn course(rounds: usize, mut next: impl FnMut(usize, &Policy) -> Policy) -> Vec<f64> {
    let mut policy = START.to_vec();
    let mut kls = vec![kl(&DATA, &policy)];
    for t in 0..rounds {
        policy = next(t, &policy);
        kls.push(kl(&DATA, &policy));
    }
    kls
}

fn line(name: &str, kls: &[f64]) -> String {
    let cells: String = kls.iter().fold(String::new(), |mut out, kl| {
        // What is left below is rounding.
        let _ = match kl {
            kl if *kl < 5e-5 => write!(out, " {:>7}", "0"),
            kl if *kl < 100.0 => write!(out, " {kl:>7.4}"),
            _ => write!(out, " {:>7}", "> 100"),
        };
        out
    });
    format!("{name:<34}{cells}\n")
}

fn head(title: &str, rounds: usize) -> String {
    let numbers: String = (0..=rounds).map(|t| format!(" {t:>7}")).collect();
    format!("\n{title}\n{:<34}{numbers}\n", "round")
}

/// Shares of `n` answers drawn of a policy, each answer counted half a time
/// more, so that none is impossible.
fn drawn(policy: &[f64], n: usize, numbers: &mut SplitMix64) -> Policy {
    let mut counts = vec![0.5; policy.len()];
    for _ in 0..n {
        let mut rest = unit(numbers.next_u64());
        let answer = policy.iter().position(|p| {
            rest -= p;
            rest < 0.0
        });
        counts[answer.unwrap_or(policy.len() - 1)] += 1.0;
    }
    let sum: f64 = counts.iter().sum();
    counts.iter().map(|c| c / sum).collect()
}

fn spin_courses() -> Vec<(f64, Vec<f64>)> {
    LAMBDAS.iter().map(|&lambda| (lambda, course(ROUNDS, |_, p| closed_form(&DATA, p, lambda)))).collect()
}

/// Means over draws of a course.
fn mean(rounds: usize, draw: impl Fn(&mut SplitMix64) -> Vec<f64>) -> Vec<f64> {
    let mut sum = vec![0.0; rounds + 1];
    for seed in 0..DRAWS {
        let kls = draw(&mut SplitMix64::new(spin_noise::mix(seed)));
        sum.iter_mut().zip(kls).for_each(|(sum, kl)| *sum += kl / DRAWS as f64);
    }
    sum
}

fn tables() -> String {
    let mut out = String::from("KL(p_data || p_t) in nats, every round minimised to its end\n");
    out += &head("SPIN, logistic, exact expectations (Theorem 5.4)", ROUNDS);
    for (lambda, kls) in spin_courses() {
        out += &line(&format!("lambda = {lambda}"), &kls);
    }

    let rounds = 6;
    out += &head("the same with 200 human and 200 generated answers a round, mean of 200 draws", rounds);
    for lambda in [0.5, 1.0, 3.0, 10.0] {
        let kls = mean(rounds, |numbers| {
            let human = drawn(&DATA, 200, numbers);
            course(rounds, |_, p| {
                // The closed form of the two samples, from the opponent itself.
                let generated = drawn(p, 200, numbers);
                let logit = |a: usize| p[a].ln() + (human[a] / generated[a]).ln() / lambda;
                softmax(&(0..p.len()).map(logit).collect::<Vec<_>>())
            })
        });
        out += &line(&format!("lambda = {lambda}"), &kls);
    }
    let floor = mean(0, |numbers| vec![kl(&DATA, &drawn(&DATA, 200, numbers))]);
    out += &line("the human sample itself (SFT)", &floor);

    out += &head("a policy with one logit for answers 3 and 4 and one for 5 and 6", rounds);
    let features: Vec<Vec<f64>> = [[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 1, 0], [0, 0, 1], [0, 0, 1]]
        .iter()
        .map(|row| row.iter().map(|x| f64::from(*x)).collect())
        .collect();
    for lambda in [1.0, 3.0] {
        let kls = course(rounds, |_, p| {
            let game = Game { data: &DATA, generated: p, reference: Some(p), initial: None };
            game.best(&objective(Loss::Logistic, lambda, 0.0), &features, &[0.0; 3])
        });
        out += &line(&format!("lambda = {lambda}"), &kls);
    }
    let tied = [DATA[0], DATA[1], 0.125, 0.125, 0.05, 0.05];
    out += &line("nearest it can come (SFT)", &[kl(&DATA, &tied)]);

    out += &head("the family, exact expectations", rounds);
    let space = course(rounds, |_, p| {
        let game = Game { data: &DATA, generated: p, reference: Some(p), initial: None };
        game.best(&objective(Loss::Nce, 1.0, 0.0), &free(6), &weights_of(p))
    });
    out += &line("SPACE, mu = 1", &space);
    for (alpha, weight) in [(1.0, 0.0), (1.0, 0.1), (1.0, 1.0), (3.0, 0.1)] {
        let kls = course(rounds, |t, p| {
            let initial = (t > 0 && weight > 0.0).then_some(&START[..]);
            let game = Game { data: &DATA, generated: p, reference: None, initial };
            game.best(&objective(Loss::Logistic, alpha, weight), &free(6), &weights_of(p))
        });
        out += &line(&format!("T-SPIN, alpha = {alpha}, weight = {weight}"), &kls);
    }
    let flat = softmax(&DATA.iter().map(|p| p.ln() / 2.0).collect::<Vec<_>>());
    out += &line("sqrt(p_data), kept by alpha = 1", &[kl(&DATA, &flat)]);

    out += "\nthe advantage that fades: expected margin of SPIN's next player over the opponent, lambda = 3\n";
    let mut p = START.to_vec();
    for t in 0..rounds {
        let next = closed_form(&DATA, &p, 3.0);
        let gain = |a: usize| (next[a] / p[a]).ln();
        let margin: f64 = (0..6).map(|a| 3.0 * (DATA[a] - p[a]) * gain(a)).sum();
        out += &format!("  round {t}: {margin:.5}\n");
        p = next;
    }
    out
}

/// The first table as a figure: lines told apart by dashes and by their names,
/// not by colour alone.
fn figure() -> String {
    let (width, height, left, top, bottom) = (640.0, 400.0, 60.0, 20.0, 350.0);
    let x = |t: usize| left + t as f64 * (width - left - 110.0) / ROUNDS as f64;
    // Logarithmic from 1e-6 to 10.
    let y = |kl: f64| bottom - (kl.max(1e-6).log10() + 6.0) / 7.0 * (bottom - top);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" \
         font-size=\"12\" role=\"img\" aria-label=\"KL divergence to the data by round, for eight values of lambda\">\n\
         <style>svg{{background:#fff;color:#222}}@media(prefers-color-scheme:dark){{svg{{background:#181818;color:#ddd}}}}\
         text{{fill:currentColor}}path{{fill:none;stroke-width:2}}.grid{{stroke:currentColor;opacity:.2;stroke-width:1}}</style>\n"
    );
    for exponent in -6..=1 {
        let at = y(10f64.powi(exponent));
        let _ = writeln!(svg, "<path class=\"grid\" d=\"M{left} {at:.1}H{:.1}\"/>", x(ROUNDS));
        let _ =
            writeln!(svg, "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">1e{exponent}</text>", left - 6.0, at + 4.0);
    }
    for t in 0..=ROUNDS {
        let _ = writeln!(svg, "<text x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">{t}</text>", x(t), bottom + 18.0);
    }
    let _ =
        writeln!(svg, "<text x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">round</text>", x(ROUNDS / 2), bottom + 38.0);
    // Okabe and Ito's colours.
    let colours = ["#d55e00", "#e69f00", "#cc79a7", "#999999", "#009e73", "#56b4e9", "#0072b2", "#b59f00"];
    let mut names: Vec<(f64, f64, String)> = Vec::new();
    for (i, (lambda, kls)) in spin_courses().into_iter().enumerate() {
        // What has reached rounding, or gone beyond the figure, is not drawn on.
        let shown = kls.iter().take_while(|kl| (1e-6..10.0).contains(*kl)).count();
        let mut points: Vec<(f64, f64)> = kls.iter().take(shown).enumerate().map(|(t, kl)| (x(t), y(*kl))).collect();
        if let Some(kl) = kls.get(shown) {
            points.push((x(shown), if *kl >= 10.0 || kl.is_nan() { top } else { bottom }));
        }
        let path: Vec<String> = points.iter().map(|(x, y)| format!("{x:.1} {y:.1}")).collect();
        let dashes = ["", "6 3", "2 3", "8 3 2 3"][i % 4];
        let _ =
            writeln!(svg, "<path stroke=\"{}\" stroke-dasharray=\"{dashes}\" d=\"M{}\"/>", colours[i], path.join("L"));
        let (end_x, mut end_y) = *points.last().expect("round 0");
        while names.iter().any(|(x, y, _)| (x - end_x).abs() < 60.0 && (y - end_y).abs() < 12.0) {
            end_y -= 3.0;
        }
        names.push((
            end_x,
            end_y,
            format!("<text x=\"{:.1}\" y=\"{:.1}\">λ = {lambda}</text>", end_x + 6.0, end_y + 4.0),
        ));
    }
    names.iter().for_each(|(.., text)| svg += &format!("{text}\n"));
    svg + "</svg>\n"
}

fn main() -> std::io::Result<()> {
    std::io::stdout().write_all(tables().as_bytes())?;
    match std::env::args_os().nth(1) {
        Some(path) => std::fs::write(path, figure()),
        None => Ok(()),
    }
}
